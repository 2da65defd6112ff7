// Requests to the front: bearer token, problem details as errors, and another try where that is safe.

const TOKEN = "callboard.token";
const TRIES = 4;

/** What the server refused, in its own words. */
export class ApiError extends Error {
  constructor(status, problem, retryAfter) {
    super(problem.detail ?? `the server answered ${status}`);
    this.status = status;
    this.code = problem.code ?? "UNKNOWN";
    this.retryAfter = retryAfter; // seconds, or null
  }

  /** Whether the same request may be taken later; nothing of this one was. */
  get passing() {
    return this.status === 503 || this.code === "NOT_PENDING_YET";
  }

  static async of(response) {
    const problem = await response.json().catch(() => ({}));
    const wait = Number(response.headers.get("Retry-After"));
    return new ApiError(response.status, problem, wait > 0 ? wait : null);
  }
}

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export class Api {
  /** Paths are resolved against the page, so that it works below a proxy's prefix, too. */
  constructor(base = new URL("api/v1/agent/", document.baseURI)) {
    this.base = base;
  }

  /** The token lives in this tab alone and is gone when it closes. */
  get token() {
    return sessionStorage.getItem(TOKEN);
  }

  set token(value) {
    if (value) sessionStorage.setItem(TOKEN, value);
    else sessionStorage.removeItem(TOKEN);
  }

  url(path) {
    return new URL(path, this.base);
  }

  async fetch(path, options = {}) {
    const headers = { ...options.headers, ...(this.token ? { Authorization: `Bearer ${this.token}` } : {}) };
    return fetch(this.url(path), { ...options, headers, cache: "no-store" });
  }

  async get(path) {
    return this.#json(path, {});
  }

  async delete(path) {
    return this.#json(path, { method: "DELETE" });
  }

  /** Every POST of this API may be repeated: the server knows a request that it has taken. */
  async post(path, body) {
    const options = { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.#json(path, options);
      } catch (error) {
        const passing = error instanceof ApiError ? error.passing : error instanceof TypeError;
        if (!passing || attempt === TRIES) throw error;
        await pause((error.retryAfter ?? attempt) * 1000);
      }
    }
  }

  async #json(path, options) {
    const response = await this.fetch(path, options);
    if (!response.ok) throw await ApiError.of(response);
    return response.status === 204 ? null : response.json();
  }
}

export const runPath = (runId, rest = "") => `runs/${encodeURIComponent(runId)}${rest}`;
export const sessionPath = (threadId, rest = "") => `sessions/${encodeURIComponent(threadId)}${rest}`;
