/* Calls of the server: E2B's interface, and the page's own.  Each has the key in a header, so no other site can make it. */

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function failure(answer) {
  let message = `the server answered with status ${answer.status}`;
  try {
    message = (await answer.json()).message || message;
  } catch {
    // It is not JSON: the status has to do.
  }
  return new ApiError(answer.status, message);
}

function encode64(data) {
  let text = "";
  for (const each of data) text += String.fromCharCode(each);
  return btoa(text);
}

function decode64(text) {
  return Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
}

export class Api {
  #key;
  #tokens = new Map();

  constructor(key) {
    this.#key = key;
  }

  async #fetch(path, options) {
    let answer;
    try {
      answer = await fetch(path, { credentials: "omit", cache: "no-store", redirect: "error", ...options });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "the server cannot be reached");
    }
    if (!answer.ok) throw await failure(answer);
    return answer;
  }

  /** The control interface; the answer's JSON, or null. */
  async call(method, path, body, options = {}) {
    const headers = { "X-API-Key": this.#key };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const answer = await this.#fetch(path, { method, headers, body: body && JSON.stringify(body), ...options });
    return answer.status === 204 ? null : answer.json();
  }

  /** Server-sent events, as [name, data]. */
  async *events(path, signal) {
    const answer = await this.#fetch(path, { headers: { "X-API-Key": this.#key }, signal });
    let rest = "";
    for await (const text of pieces(answer.body.pipeThrough(new TextDecoderStream()))) {
      const blocks = (rest + text).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const found = /^event: (.*)\ndata: (.*)$/.exec(block);
        if (found) yield [found[1], JSON.parse(found[2])];
      }
    }
  }

  async #boxHeaders(id) {
    if (!this.#tokens.has(id)) {
      const detail = await this.call("GET", `/sandboxes/${encodeURIComponent(id)}`);
      this.#tokens.set(id, detail.envdAccessToken);
    }
    return { "E2b-Sandbox-Id": id, "E2b-Sandbox-Port": "49983", "X-Access-Token": this.#tokens.get(id) };
  }

  /** A call of the sandbox's daemon. */
  async box(id, name, message, options = {}) {
    const headers = { ...(await this.#boxHeaders(id)), "Content-Type": "application/json" };
    const answer = await this.#fetch(`/${name}`, { method: "POST", headers, body: JSON.stringify(message), ...options });
    return answer.json();
  }

  /** Ask for a file; the caller reads as much as it wants of the answer's body. */
  async file(id, path, signal) {
    const headers = await this.#boxHeaders(id);
    return this.#fetch(`/files?path=${encodeURIComponent(path)}`, { headers, signal });
  }

  /** The events of a new process: {start}, {data}, {end}. */
  async *process(id, message, signal) {
    const headers = {
      ...(await this.#boxHeaders(id)),
      "Content-Type": "application/connect+json",
      "Keepalive-Ping-Interval": "50",
    };
    const body = envelope(message);
    const answer = await this.#fetch("/process.Process/Start", { method: "POST", headers, body, signal });
    for await (const [flags, found] of envelopes(answer.body)) {
      if (found.error) throw new ApiError(400, found.error.message || found.error.code);
      if (!(flags & 2) && found.event) yield found.event;
    }
  }

  sendInput(id, pid, data) {
    return this.box(id, "process.Process/SendInput", { process: { pid }, input: { pty: encode64(data) } });
  }

  resize(id, pid, rows, cols) {
    return this.box(id, "process.Process/Update", { process: { pid }, pty: { size: { rows, cols } } });
  }

  kill(id, pid, options) {
    return this.box(id, "process.Process/SendSignal", { process: { pid }, signal: "SIGNAL_SIGKILL" }, options);
  }
}

export { decode64 };

async function* pieces(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/* The Connect protocol: a byte of flags, four of the size, JSON. */

function envelope(message) {
  const data = new TextEncoder().encode(JSON.stringify(message));
  const made = new Uint8Array(5 + data.length);
  new DataView(made.buffer).setUint32(1, data.length);
  made.set(data, 5);
  return made;
}

async function* envelopes(stream) {
  let rest = new Uint8Array();
  for await (const piece of pieces(stream)) {
    const joined = new Uint8Array(rest.length + piece.length);
    joined.set(rest);
    joined.set(piece, rest.length);
    rest = joined;
    while (rest.length >= 5) {
      const size = new DataView(rest.buffer, rest.byteOffset).getUint32(1);
      if (rest.length < 5 + size) break;
      yield [rest[0], JSON.parse(new TextDecoder().decode(rest.subarray(5, 5 + size)))];
      rest = rest.slice(5 + size);
    }
  }
}
