// Applies JSON Patch (RFC 6902) without changing the document it is given.

/** The patched document; throws when an operation does not fit, and then nothing of the patch counts. */
export function applyPatch(document, operations) {
  let result = structuredClone(document);
  for (const operation of operations) result = applied(result, operation);
  return result;
}

function applied(document, { op, path, from, value }) {
  switch (op) {
    case "add":
      return put(document, parse(path), structuredClone(value), true);
    case "replace":
      read(document, parse(path));
      return put(document, parse(path), structuredClone(value), false);
    case "remove":
      return take(document, parse(path));
    case "move": {
      if (path.startsWith(`${from}/`)) throw new Error(`${from} cannot be moved into itself`);
      const moved = read(document, parse(from));
      return put(take(document, parse(from)), parse(path), moved, true);
    }
    case "copy":
      return put(document, parse(path), structuredClone(read(document, parse(from))), true);
    case "test":
      if (!same(read(document, parse(path)), value)) throw new Error(`${path} has another value`);
      return document;
    default:
      throw new Error(`unknown operation ${op}`);
  }
}

function parse(pointer) {
  if (pointer === "") return [];
  if (typeof pointer !== "string" || !pointer.startsWith("/")) throw new Error(`not a pointer: ${pointer}`);
  return pointer.slice(1).split("/").map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
}

function read(document, keys) {
  let value = document;
  for (const key of keys) value = value[existing(value, key)];
  return value;
}

function put(document, keys, value, insert) {
  if (keys.length === 0) return value;
  const parent = read(document, keys.slice(0, -1));
  const key = keys.at(-1);
  if (!Array.isArray(parent)) define(container(parent, key), key, value);
  else if (insert) parent.splice(key === "-" ? parent.length : index(key, parent.length), 0, value);
  else parent[existing(parent, key)] = value;
  return document;
}

function take(document, keys) {
  if (keys.length === 0) return null;
  const parent = read(document, keys.slice(0, -1));
  const key = existing(parent, keys.at(-1));
  if (Array.isArray(parent)) parent.splice(key, 1);
  else delete parent[key];
  return document;
}

/** A plain assignment of `__proto__` would change what the object is. */
function define(object, key, value) {
  Object.defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true });
}

function existing(value, key) {
  if (Array.isArray(value)) return index(key, value.length - 1);
  if (!Object.hasOwn(container(value, key), key)) throw new Error(`there is no ${key}`);
  return key;
}

function container(value, key) {
  if (value === null || typeof value !== "object") throw new Error(`${key} is looked for in what is not an object`);
  return value;
}

function index(key, last) {
  if (!/^(0|[1-9]\d*)$/.test(key) || Number(key) > last) throw new Error(`there is no item ${key}`);
  return Number(key);
}

function same(left, right) {
  if (left === null || right === null || typeof left !== "object" || typeof right !== "object") return left === right;
  if (Array.isArray(left) !== Array.isArray(right)) return false;
  const keys = Object.keys(left);
  return keys.length === Object.keys(right).length && keys.every((k) => Object.hasOwn(right, k) && same(left[k], right[k]));
}
