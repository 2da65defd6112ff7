// Where the page is: `#/<section>[/<id>][?filter=…]`, so that every view has an address and the back button works.

export class Place {
  constructor(section, id, filters) {
    this.section = section;
    this.id = id;
    this.filters = filters;
    this.filtering = false;
  }

  static here() {
    const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
    const [section = "", id = ""] = path.split("/");
    const place = new Place(section || "overview", id && decodeURIComponent(id), new URLSearchParams(query));
    place.filtering = Place.#filtered;
    Place.#filtered = false;
    return place;
  }

  static #filtered = false;

  /** Go to the same section with other filters; the focus stays in the form. */
  static filter(section, filters) {
    const kept = Object.entries(filters).filter(([, value]) => value);
    const hash = `#/${section}${kept.length ? `?${new URLSearchParams(kept)}` : ""}`;
    if (location.hash === hash) return; // Enter in a changed field submits and changes
    Place.#filtered = true;
    location.hash = hash;
  }
}

export const runLink = (id) => `#/runs/${encodeURIComponent(id)}`;
export const sessionLink = (id) => `#/sessions/${encodeURIComponent(id)}`;
export const letterLink = (id) => `#/dead-letters/${encodeURIComponent(id)}`;
