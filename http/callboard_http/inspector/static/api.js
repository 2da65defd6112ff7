// The operator API. What has been read already is asked for with its tag: unchanged content is not sent, and not noted.

import { Api, ApiError } from "../playground/api.js";

export class OperatorApi extends Api {
  constructor() {
    super(new URL("api/v1/operator/", document.baseURI));
    this.kept = new Map(); // path -> {tag, body}, of the content that is shown
  }

  async get(path) {
    const known = this.kept.get(path);
    const response = await this.fetch(path, { headers: known ? { "If-None-Match": known.tag } : {} });
    if (response.status === 304) return known.body;
    if (!response.ok) throw await ApiError.of(response);
    const body = await response.json();
    const tag = response.headers.get("ETag");
    if (tag) {
      this.kept.clear();
      this.kept.set(path, { tag, body });
    }
    return body;
  }

  /** A path with those parameters that have a value. */
  static path(name, parameters) {
    const given = Object.entries(parameters).filter(([, value]) => value);
    return given.length ? `${name}?${new URLSearchParams(given)}` : name;
  }
}
