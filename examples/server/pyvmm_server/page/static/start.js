/* Why this start was slow: its phases as bars on one axis of time. */

import { h, svg, table } from "./dom.js";
import { seconds } from "./units.js";

const WORDS = {
  monitor: "open the image, start its monitor",
  "machine of the pool": "take a machine of the pool",
  namespaces: "enter the namespaces and the cgroup",
  machine: "make the machine",
  connected: "reach the agent in the guest",
  sandbox: "set up the guest",
  container: "make the container",
  start: "ask for its first process",
  started: "start its first process",
};
const WIDTH = 860;
const LABEL = 265;
const ROW = 24;

export function showStart(panel, id, api) {
  const ending = new AbortController();
  panel.replaceChildren(h("p", { role: "status" }, "Reading"));
  api.call("GET", `/pyvmm/sandboxes/${encodeURIComponent(id)}/start`, undefined, { signal: ending.signal }).then(
    ({ phases }) => panel.replaceChildren(...(phases.length ? picture(phases) : [h("p", {}, "Nothing is known of it.")])),
    (error) => ending.signal.aborted || panel.replaceChildren(h("p", { role: "alert" }, error.message)),
  );
  return () => ending.abort();
}

function picture(phases) {
  for (const each of phases) {
    each.words = WORDS[each.name] || each.name;
    each.took = each.to - each.from;
  }
  const total = Math.max(...phases.map((each) => each.to));
  // Phases that have steps are as long as these: the steps say more.
  const parts = phases.filter((each, at) => each.depth || !phases[at + 1]?.depth);
  const slowest = parts.reduce((one, other) => (other.took > one.took ? other : one));
  const share = Math.round((100 * slowest.took) / total);
  const summary = `The start took ${seconds(total)}. Slowest: ${slowest.words}, ${seconds(slowest.took)} (${share} %).`;
  const height = ROW * (phases.length + 1);
  const place = (time) => LABEL + ((WIDTH - LABEL - 70) * time) / total;
  const bars = phases.map((each, at) => {
    const top = at * ROW + 4;
    const width = Math.max(1.5, place(each.to) - place(each.from));
    return svg("g", {},
      svg("text", { x: each.depth * 14, y: top + 13, class: "label" }, shortened(each.words)),
      svg("rect", { x: place(each.from), y: top, width, height: ROW - 8, rx: 2,
        class: each === slowest ? "bar slowest" : `bar depth-${each.depth}` }),
      svg("text", { x: place(each.to) + 5, y: top + 13, class: "took" }, seconds(each.took)));
  });
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => {
    const x = place(part * total);
    return svg("g", {}, svg("line", { x1: x, x2: x, y1: 0, y2: height - ROW, class: "tick" }),
      svg("text", { x, y: height - 8, "text-anchor": "middle", class: "took" }, seconds(part * total)));
  });
  return [
    h("p", { role: "status" }, summary),
    h("div", {},
      svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": summary }, ticks, bars)),
    h("details", {}, h("summary", {}, "As a table"),
      table("Phases of the start", ["Phase", "Begin", "Time"],
        phases.map((each) => [each.words, seconds(each.from), seconds(each.took)]))),
  ];
}

function shortened(text) {
  return text.length > 36 ? `${text.slice(0, 35)}…` : text;
}
