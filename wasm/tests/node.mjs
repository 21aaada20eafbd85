// A module in Node: what `examples/fingerprint.rs` prints of a model, and that what can't be done is an
// error. `node node.mjs MODULE MODEL PROMPT N`
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { Pith } from "../pith.js";

const [path, modelPath, prompt, n] = process.argv.slice(2);
const module = await WebAssembly.compile(await readFile(path));
const model = await readFile(modelPath);

let pith = await Pith.open(module, model);
const greedily = (options) => {
  let [text, hash] = ["", 0x811c9dc5];
  for (const piece of pith.generate(prompt, { n: Number(n), temp: 0, ...options })) {
    text += piece;
    for (const word of new Uint32Array(pith.logits().buffer)) hash = Math.imul(hash ^ word, 0x01000193);
  }
  return [(hash >>> 0).toString(16).padStart(8, "0"), text];
};
const [hash, text] = greedily();
console.log(`${hash}\n${text}`);

// What the context holds already changes nothing, nor does a text that was left off.
for (const _ of pith.generate("Another text", { n: 8 })) break;
assert.deepEqual(greedily(), [hash, text]);
const drawn = () => [...pith.generate(prompt, { n: 16, temp: 1, seed: 7 })].join("");
assert.equal(drawn(), drawn());
assert.equal([...pith.generate(prompt, { n: 0 })].length, 0);

// Errors, behind which the instance goes on.
assert.throws(() => [...pith.generate("")], /no tokens/);
pith = await Pith.open(module, new Blob([model]), { nCtx: 24 });
assert.throws(() => [...pith.generate("A text that is too long ".repeat(20))], /context is full/);
assert.equal([...pith.generate("A b", { temp: 0 })].length <= 24, true);
await assert.rejects(Pith.open(module, model.subarray(0, model.length / 2)), /truncated/);
await assert.rejects(Pith.open(module, new Uint8Array(100)), /magic/);
await assert.rejects(Pith.open(module, new Uint8Array()), /GGUF/);
await assert.rejects(Pith.open(module, model, { nCtx: 1 << 30 }), /over the model's/);

// Calls in an order that the class doesn't make.
const { exports } = await WebAssembly.instantiate(module, {});
const error = () => {
  const bytes = new Uint8Array(exports.memory.buffer, exports.pith_output(), exports.pith_output_len());
  return new TextDecoder().decode(bytes);
};
const give = (bytes) => {
  const at = exports.pith_input(bytes.length);
  new Uint8Array(exports.memory.buffer).set(bytes, at);
};
assert.deepEqual([exports.pith_step(), error()], [-1, "there is no model yet"]);
assert.deepEqual([exports.pith_start(1, 0, 0), exports.pith_logits_len()], [-1, 0]);
assert.equal(exports.pith_input(0xffffffff), 0);
give(model);
assert.deepEqual([exports.pith_open(0), exports.pith_step()], [0, 0]);
give([0xc3, 0x28]);
assert.equal(exports.pith_start(1, 0, 0), -1);
assert.match(error(), /UTF-8/);
assert.equal(exports.pith_open(0), -1);
assert.match(error(), /has a model/);
