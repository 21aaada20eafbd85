// pith in a page or in Node: the functions of pith_wasm.wasm as a class.
//
//   const pith = await Pith.open(await fetch("pith_wasm.wasm"), await fetch("demo.gguf"));
//   for (const text of pith.generate("Once upon", { n: 64 })) document.body.append(text);

/** A model in a module's memory, and a text that is being written with it. */
export class Pith {
  #exports;

  constructor(exports) {
    this.#exports = exports;
  }

  /**
   * @param module the module: a WebAssembly.Module, a Response, or bytes
   * @param model a GGUF file: a Blob, a Response, or bytes
   * @param nCtx tokens that the context holds; 0 is the model's own, at most 4096
   */
  static async open(module, model, { nCtx = 0 } = {}) {
    if (!(module instanceof WebAssembly.Module)) {
      module = await WebAssembly.compile(await (await blobOf(module)).arrayBuffer());
    }
    const { exports } = await WebAssembly.instantiate(module, {});
    const pith = new Pith(exports);
    const blob = await blobOf(model);
    // Piece by piece, so that the file isn't in memory twice.
    let at = pith.#room(blob.size);
    const reader = blob.stream().getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      new Uint8Array(exports.memory.buffer).set(value, at);
      at += value.length;
    }
    pith.#checked(exports.pith_open(nCtx));
    return pith;
  }

  /**
   * Continues a prompt, and gives the text of each token as it comes, which may be empty. What the last
   * prompt and text have in common with this one isn't computed again.
   *
   * @param n most tokens
   * @param temp temperature; 0 always takes the likeliest token
   * @param seed draw the same way again
   */
  *generate(prompt, { n = 256, temp = 0.8, seed = 0 } = {}) {
    const bytes = new TextEncoder().encode(prompt);
    const at = this.#room(bytes.length);
    new Uint8Array(this.#exports.memory.buffer).set(bytes, at);
    let more = this.#checked(this.#exports.pith_start(n, temp, seed));
    while (more) {
      more = this.#checked(this.#exports.pith_step());
      yield this.#output();
    }
  }

  /** A copy of the logits that the last token was drawn from. */
  logits() {
    const { memory, pith_logits, pith_logits_len } = this.#exports;
    return new Float32Array(memory.buffer, pith_logits() >>> 0, pith_logits_len()).slice();
  }

  /** Where an input of this many bytes goes. */
  #room(length) {
    // Pointers are numbers without a sign, which JavaScript is given with one.
    const at = this.#exports.pith_input(length) >>> 0;
    if (at === 0) throw new Error(`no memory for ${length} bytes`);
    return at;
  }

  #output() {
    const { memory, pith_output, pith_output_len } = this.#exports;
    const bytes = new Uint8Array(memory.buffer, pith_output() >>> 0, pith_output_len());
    return new TextDecoder().decode(bytes);
  }

  #checked(answer) {
    if (answer < 0) throw new Error(this.#output());
    return answer === 1;
  }
}

/** A Blob of a Blob, of a Response that is one of success, or of bytes. */
async function blobOf(from) {
  if (from instanceof Blob) return from;
  if (!(from instanceof Response)) return new Blob([from]);
  if (!from.ok) throw new Error(`${from.url}: ${from.status} ${from.statusText}`);
  return from.blob();
}
