"""A module in wasmtime: what `examples/fingerprint.rs` prints of a model.

python wasmtime_run.py MODULE MODEL PROMPT N
"""

import sys

import wasmtime


def main(path, model, prompt, n):
    store = wasmtime.Store()
    module = wasmtime.Module.from_file(store.engine, path)
    exports = wasmtime.Instance(store, module, []).exports(store)
    memory = exports["memory"]

    def call(name, *args):
        answer = exports[name](store, *args)
        if answer is not None and answer < 0:
            raise SystemExit(output().decode())
        return answer

    def give(data):
        memory.write(store, data, exports["pith_input"](store, len(data)) & 0xFFFFFFFF)

    def read(name):
        at = exports[name](store) & 0xFFFFFFFF
        return lambda size: bytes(memory.read(store, at, at + size))

    def output():
        return read("pith_output")(exports["pith_output_len"](store))

    with open(model, "rb") as file:
        give(file.read())
    call("pith_open", 0)
    give(prompt.encode())
    more = call("pith_start", n, 0.0, 0)
    digest, text = 0x811C9DC5, b""
    while more:
        more = call("pith_step")
        text += output()
        logits = read("pith_logits")(4 * exports["pith_logits_len"](store))
        for word in memoryview(logits).cast("I"):
            digest = (digest ^ word) * 0x01000193 & 0xFFFFFFFF
    print(f"{digest:08x}\n{text.decode()}")


main(*sys.argv[1:4], int(sys.argv[4]))
