/* The processes of a sandbox, and the end of what its kernel has printed. */

import { button, h, table } from "./dom.js";
import { bytes } from "./units.js";

const EVERY_MS = 3000;

/** Show what a call answers, again and again until the view is closed. */
function follow(panel, api, path, draw) {
  const ending = new AbortController();
  const said = h("p", { role: "status" }, "Reading");
  const place = h("div");
  panel.replaceChildren(said, place);
  let timer;
  const read = async () => {
    try {
      draw(place, await api.call("GET", path, undefined, { signal: ending.signal }), said);
    } catch (error) {
      if (!ending.signal.aborted) said.textContent = error.message;
    }
    if (!ending.signal.aborted) timer = setTimeout(read, EVERY_MS);
  };
  read();
  return () => {
    clearTimeout(timer);
    ending.abort();
  };
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function showProcesses(panel, id, api) {
  let known = "";
  return follow(panel, api, `/pyvmm/sandboxes/${encodeURIComponent(id)}/processes`, (place, { processes }, said) => {
    put(said, `${processes.length} processes`);
    const text = JSON.stringify(processes);
    // A new table would take the focus from those who read it.
    if (text === known || place.contains(document.activeElement)) return;
    known = text;
    place.replaceChildren(table("Processes", ["Number", "Parent", "State", "Memory", "Command"],
      processes.map((each) => [each.pid, each.parent, each.state, bytes(each.memory), each.command].map(String))));
  });
}

export function showConsole(panel, id, api) {
  const text = h("pre", { tabindex: "0", role: "region", "aria-label": "Console" });
  const end = button("To the end", () => (text.scrollTop = text.scrollHeight));
  return follow(panel, api, `/pyvmm/sandboxes/${encodeURIComponent(id)}/console`, (place, found, said) => {
    if (!found.text) {
      put(said, "The kernel of this machine has printed nothing.");
      return;
    }
    const isAtEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 4;
    put(said, `The last ${bytes(found.most)} of what the kernel has printed`);
    if (!text.isConnected) place.replaceChildren(h("div", { class: "bar" }, end), text);
    put(text, found.text);
    if (isAtEnd) text.scrollTop = text.scrollHeight;
  });
}
