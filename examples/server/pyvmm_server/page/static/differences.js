/* What a sandbox and one of its siblings do not have in common. */

import { h, table } from "./dom.js";
import { title } from "./state.js";
import { bytes, clock } from "./units.js";

const WORDS = { here: "only here", there: "only there", changed: "different" };

export function showDifferences(panel, id, api, state) {
  const ending = new AbortController();
  const siblings = state.siblings(id);
  if (!siblings.length) {
    panel.replaceChildren(h("p", {}, "It has no siblings: fork it, and compare the two."));
    return undefined;
  }
  const name = (other, item) => `${title(other, item)}${other === state.sandboxes.get(id).parent ? ", its parent" : ""}`;
  const choice = h("select", { id: "sibling" }, siblings.map(([other, item]) => h("option", { value: other }, name(other, item))));
  const folder = h("input", { id: "folder", value: "/", spellcheck: "false", autocomplete: "off" });
  const form = h("form", { class: "bar" },
    h("label", { for: "sibling" }, "Sibling"), choice, h("label", { for: "folder" }, "Folder"), folder,
    h("button", { type: "submit" }, "Compare"));
  const said = h("p", { role: "status" });
  const place = h("div");
  panel.replaceChildren(form, said, place);

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    said.textContent = "Comparing";
    place.replaceChildren();
    const query = new URLSearchParams({ with: choice.value, path: folder.value });
    try {
      const path = `/pyvmm/sandboxes/${encodeURIComponent(id)}/differences?${query}`;
      draw(await api.call("GET", path, undefined, { signal: ending.signal }));
    } catch (error) {
      if (!ending.signal.aborted) said.textContent = `Cannot compare: ${error.message}`;
    }
  });

  function draw({ files, more, processes, memory }) {
    const running = [["here", processes.here], ["there", processes.there]].flatMap(([side, list]) =>
      list.map((each) => [WORDS[side], String(each.pid), bytes(each.memory), each.command]));
    said.textContent = `${files.length + more} files and ${running.length} processes differ. ` +
      `Memory: ${bytes(memory[0])} here, ${bytes(memory[1])} there.`;
    const sides = (each) => [each.here, each.there].map((side) =>
      side ? (side.type === "directory" ? "directory" : `${bytes(side.size)}, ${clock(side.modifiedTime)}`) : "");
    const parts = [];
    if (files.length) {
      parts.push(table(more ? `The first ${files.length} files that differ` : "Files that differ",
        ["File", "Difference", "Here", "There"], files.map((each) => [each.path, WORDS[each.kind], ...sides(each)])));
    }
    if (running.length) parts.push(table("Processes that differ", ["Where", "Number", "Memory", "Command"], running));
    place.replaceChildren(...parts);
  }

  return () => ending.abort();
}
