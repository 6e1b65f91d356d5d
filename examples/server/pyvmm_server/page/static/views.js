/* The views of a sandbox, in the order of their tabs. */

import { showDifferences } from "./differences.js";
import { showFiles } from "./files.js";
import { showConsole, showProcesses } from "./processes.js";
import { showStart } from "./start.js";
import { Terminals } from "./terminal.js";

/** @returns {{list: Array, close: Function}} the tabs, and what ends all that outlives one of them */
export function viewsOf(api, state) {
  const terminals = new Terminals(api, state);
  const list = [
    ["Start", (panel, id) => showStart(panel, id, api)],
    ["Terminal", (panel, id, enters) => terminals.show(panel, id, enters), true],
    ["Files", (panel, id) => showFiles(panel, id, api), true],
    ["Processes", (panel, id) => showProcesses(panel, id, api), true],
    ["Console", (panel, id) => showConsole(panel, id, api)],
    ["Differences", (panel, id) => showDifferences(panel, id, api, state), true],
  ];
  return { list, close: () => terminals.close() };
}
