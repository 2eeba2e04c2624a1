// Opens the vector in Node: a report as JSON on standard output.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { report } from "../browser/vector_report.mjs";

const [, , script, vector] = process.argv;
console.log(JSON.stringify(await report(await import(pathToFileURL(script)), JSON.parse(readFileSync(vector, "utf-8")))));
