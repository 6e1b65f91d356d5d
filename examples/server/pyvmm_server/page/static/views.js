/* The views of a sandbox, in the order of their tabs. */

import { showFiles } from "./files.js";

/** @returns {{list: Array, close: Function}} the tabs, and what ends all that outlives one of them */
export function viewsOf(api, state) {
  const list = [
    ["Files", (panel, id) => showFiles(panel, id, api)],
  ];
  return { list, close: () => {} };
}
