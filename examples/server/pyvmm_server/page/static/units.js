/* Sizes and times as people read them. */

const SIZES = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(count) {
  let at = 0;
  for (; count >= 1024 && at < SIZES.length - 1; at++) count /= 1024;
  return `${at && count < 10 ? count.toFixed(1) : Math.round(count)} ${SIZES[at]}`;
}

export function seconds(count) {
  if (count === 0) return "0 s";
  if (count < 0.001) return `${Math.round(count * 1e6)} µs`;
  if (count < 1) return `${(count * 1000).toFixed(count < 0.1 ? 1 : 0)} ms`;
  if (count < 120) return `${Math.floor(count)} s`;
  if (count < 7200) return `${Math.floor(count / 60)} min`;
  if (count < 172800) return `${Math.floor(count / 3600)} h`;
  return `${Math.floor(count / 86400)} d`;
}

export function clock(text) {
  return new Date(text).toLocaleString();
}
