/* Files: browse, view, download. */

import { button, h, table } from "./dom.js";
import { bytes, clock } from "./units.js";

const MOST_SEEN = 256 << 10;
const MARKS = { FILE_TYPE_DIRECTORY: "directory", FILE_TYPE_FILE: "file", FILE_TYPE_SYMLINK: "link" };

export function showFiles(panel, id, api) {
  const ending = new AbortController();
  const address = h("input", { id: "path", value: "/", spellcheck: "false", autocomplete: "off" });
  const form = h("form", { class: "bar" }, h("label", { for: "path" }, "Folder"), " ", address,
    h("button", { type: "submit" }, "Open"));
  const said = h("p", { role: "status" });
  const place = h("div");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    open(address.value);
  });
  panel.replaceChildren(form, said, place);

  async function open(path) {
    said.textContent = "Reading";
    try {
      const options = { signal: ending.signal };
      const { entries } = await api.box(id, "filesystem.Filesystem/ListDir", { path, depth: 1 }, options);
      address.value = path;
      draw(path, entries);
      said.textContent = `${path}: ${entries.length} entries`;
    } catch (error) {
      if (!ending.signal.aborted) said.textContent = `Cannot open ${path}: ${error.message}`;
    }
  }

  function draw(path, entries) {
    const rows = entries.map((entry) => {
      const isFolder = entry.type === "FILE_TYPE_DIRECTORY";
      const name = isFolder
        ? button(`${entry.name}/`, () => open(entry.path), { class: "link" })
        : button(entry.name, () => openOrView(path, entry), { class: "link" });
      const target = entry.symlinkTarget ? ` → ${entry.symlinkTarget}` : "";
      const get = !isFolder && button("Download", () => download(entry), { "aria-label": `Download ${entry.name}` });
      return [h("span", {}, name, target), MARKS[entry.type] || "other", isFolder ? "" : bytes(Number(entry.size)),
        clock(entry.modifiedTime), entry.permissions, entry.owner, get || ""];
    });
    const above = path.replace(/\/+$/, "").replace(/\/[^/]*$/, "") || "/";
    const up = path !== "/" && button("Up", () => open(above));
    place.replaceChildren(...[up, table(`Files in ${path}`,
      ["Name", "Type", "Size", "Changed", "Mode", "Owner", "Actions"], rows)].filter(Boolean));
  }

  /* A link to a directory is one, and only its target tells. */
  async function openOrView(path, entry) {
    if (entry.type === "FILE_TYPE_SYMLINK") {
      try {
        const found = await api.box(id, "filesystem.Filesystem/Stat", { path: entry.path }, { signal: ending.signal });
        if (found.entry.type === "FILE_TYPE_DIRECTORY") return open(entry.path);
      } catch {
        // What is wrong with it shows when it is read.
      }
    }
    return view(path, entry);
  }

  async function view(path, entry) {
    said.textContent = `Reading ${entry.name}`;
    try {
      const answer = await api.file(id, entry.path, ending.signal);
      const [data, isAll] = await head(answer.body, MOST_SEEN);
      const text = new TextDecoder().decode(data);
      const isText = !text.slice(0, 4096).includes("\0");
      const size = isAll ? bytes(data.length) : `its first ${bytes(data.length)}`;
      place.replaceChildren(
        h("div", { class: "bar" }, button("Back to the folder", () => open(path)), button("Download", () => download(entry))),
        h("pre", { tabindex: "0", role: "region", "aria-label": `Content of ${entry.name}` },
          isText ? text : "This is no text. Download it to see it."));
      said.textContent = `${entry.path}: ${size}`;
    } catch (error) {
      if (!ending.signal.aborted) said.textContent = `Cannot read ${entry.path}: ${error.message}`;
    }
  }

  async function download(entry) {
    said.textContent = `Fetching ${entry.name}`;
    try {
      const answer = await api.file(id, entry.path, ending.signal);
      const url = URL.createObjectURL(await answer.blob());
      h("a", { href: url, download: entry.name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60000);
      said.textContent = `Downloaded ${entry.name}`;
    } catch (error) {
      if (!ending.signal.aborted) said.textContent = `Cannot download ${entry.path}: ${error.message}`;
    }
  }

  open("/");
  return () => ending.abort();
}

/** The first bytes of a stream, and whether they are all. */
async function head(stream, most) {
  const reader = stream.getReader();
  const parts = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    size += value.length;
    if (size > most) break;
  }
  reader.cancel().catch(() => {});
  const data = new Uint8Array(await new Blob(parts).arrayBuffer());
  return [data.subarray(0, most), size <= most];
}
