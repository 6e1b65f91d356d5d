/* The views of a sandbox, in the order of their tabs. */

import { showFiles } from "./files.js";
import { showStart } from "./start.js";
import { Terminals } from "./terminal.js";

/** @returns {{list: Array, close: Function}} the tabs, and what ends all that outlives one of them */
export function viewsOf(api, state) {
  const terminals = new Terminals(api, state);
  const list = [
    ["Files", (panel, id) => showFiles(panel, id, api)],
    ["Terminal", (panel, id) => terminals.show(panel, id)],
    ["Start", (panel, id) => showStart(panel, id, api)],
  ];
  return { list, close: () => terminals.close() };
}
