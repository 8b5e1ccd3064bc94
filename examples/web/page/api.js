// Requests to the server: the token, errors, exact numbers, and pictures behind a token.

import { kept } from "./dom.js";

/** An answer that is an error, or no answer. */
export class ApiError extends Error {
  /** `status` 0 is no answer; `param` the field at fault or null; `retryAfter` seconds or null. */
  constructor(message, { status = 0, param = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, param, retryAfter });
  }
}

let token = kept.get("token");
let asking = null;
let ask = async () => null;

/** Says how the user is asked for the token: `ask(wrong)` gives it, or null; `wrong` is whether one was tried. */
export const onTokenWanted = (f) => (ask = f);

/** Whether the server wants a token, as far as is known. */
export const hasToken = () => token !== null;

/** Where a path of the server is; the page may lie behind a proxy, under a path of its own. */
export const address = (path) => new URL(path.replace(/^\//, ""), document.baseURI);

/** Asks for the token, once for all requests that want it; whether there is another now than `tried`. */
async function newToken(tried) {
  if (token !== tried) return token !== null;
  asking ??= ask(tried !== null).then((given) => {
    if (given !== null) {
      token = given;
      kept.set("token", given);
    }
    asking = null;
    return given !== null;
  });
  return asking;
}

/**
 * A request; the answer, if it is not an error.
 *
 * @throws {ApiError} what the server says, or that it does not answer. An abort is thrown on as it is.
 */
export async function request(path, { method = "GET", headers = {}, body, signal } = {}) {
  for (;;) {
    const tried = token;
    const all = tried === null ? headers : { ...headers, Authorization: `Bearer ${tried}` };
    let answer;
    try {
      answer = await fetch(address(path), { method, headers: all, body, signal, cache: "no-cache" });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError("The server does not answer. It may have stopped, or the network is down.");
    }
    if (answer.ok) return answer;
    if (answer.status === 401 && (await newToken(tried))) continue;
    throw await errorOf(answer);
  }
}

async function errorOf(answer) {
  const header = answer.headers.get("Retry-After");
  const seconds =
    header === null ? NaN : /^\d+$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  const details = {
    status: answer.status,
    retryAfter: Number.isFinite(seconds) ? Math.max(0, Math.ceil(seconds)) : null,
  };
  try {
    const { error } = await answer.json();
    return new ApiError(error.message, { ...details, param: error.param ?? null });
  } catch {
    return new ApiError(`The server answered ${answer.status} ${answer.statusText}`.trim() + ".", details);
  }
}

/** JSON, with whole numbers that a double does not hold (seeds of 64 bits) as BigInt. */
export const parse = (text) =>
  JSON.parse(text, (_, value, context) => {
    const inexact = typeof value === "number" && !Number.isSafeInteger(value) && /^\d+$/.test(context?.source ?? "");
    return inexact ? BigInt(context.source) : value;
  });

/** The opposite of `parse`. */
export const stringify = (value) =>
  JSON.stringify(value, (_, part) => (typeof part === "bigint" ? JSON.rawJSON(String(part)) : part));

/** A GET of JSON. */
export const get = async (path) => parse(await (await request(path)).text());

/** A POST of JSON, or of nothing; the answer's JSON. */
export async function post(path, value) {
  const body = value === undefined ? undefined : stringify(value);
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  return parse(await (await request(path, { method: "POST", headers, body })).text());
}

/** A DELETE. */
export const remove = (path) => request(path, { method: "DELETE" });

/** Uploads a reference; `{id, width, height}`. */
export async function upload(file, signal) {
  const headers = { "Content-Type": file.type || "application/octet-stream" };
  return parse(await (await request("/api/references", { method: "POST", headers, body: file, signal })).text());
}

const fetched = new Map();

/** A picture as an address for `img`: its own, or that of a copy where the token has to be sent along. */
export function pictureAddress(path) {
  if (token === null) return Promise.resolve(address(path).href);
  if (!fetched.has(path)) {
    const copy = request(path).then(async (answer) => URL.createObjectURL(await answer.blob()));
    copy.catch(() => fetched.delete(path));
    fetched.set(path, copy);
  }
  return fetched.get(path);
}

/** Lets go of the copy of a picture that was removed. */
export function forgetPicture(path) {
  fetched.get(path)?.then(
    (url) => URL.revokeObjectURL(url),
    () => {},
  );
  fetched.delete(path);
}

/** Shows a picture of the server in `img`. Its `data-failed` is set where that is not possible. */
export function showPicture(img, path) {
  img.dataset.path = path;
  pictureAddress(path).then(
    (url) => {
      if (img.dataset.path === path) img.src = url;
    },
    () => (img.dataset.failed = ""),
  );
}

/** Saves a picture under the name that the server gives it. */
export async function download(path) {
  const answer = await request(`${path}?download=1`);
  const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") ?? "")?.[1] ?? "uno.png";
  const url = URL.createObjectURL(await answer.blob());
  const link = document.createElement("a");
  Object.assign(link, { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
