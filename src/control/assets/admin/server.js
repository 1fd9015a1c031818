// Talks to the server: the session, the figures, searches, and requests of the server API. All
// addresses are relative, so that the page may be below any path.

const KEY = "ringhold-admin-token";

// What is told when the session is over; set by the page.
export const session = { over: () => {} };

// In this tab only, and gone with it.
const token = () => sessionStorage.getItem(KEY) || "";

async function request(path, options = {}) {
  const headers = { ...options.headers, Authorization: `token ${token()}` };
  const answer = await fetch(path, { cache: "no-store", ...options, headers, signal: AbortSignal.timeout(8000) });
  if (answer.status === 401) {
    logOut();
    session.over();
    throw new Error("the session is over");
  }
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  return answer.json();
}

export const get = (path, query) =>
  request(query ? `${path}?${new URLSearchParams(query)}` : path);

/// One request of the server API: its result, or an error with the server's words.
export async function call(method, params) {
  const body = JSON.stringify({ method, params });
  const reply = await request("api", { method: "POST", body, headers: { "Content-Type": "application/json" } });
  if (reply.error) throw new Error(`${reply.error.message} (${reply.error.code})`);
  return reply.result;
}

export async function isLoggedIn() {
  if (!token()) return false;
  return (await request("init")).authenticated;
}

export async function logIn(password) {
  const answer = await fetch("auth", { method: "POST", body: new URLSearchParams({ password }), cache: "no-store" });
  if (answer.status === 429) {
    throw new Error(`Too many failed: try again in ${answer.headers.get("Retry-After")} s`);
  }
  if (answer.status === 400) throw new Error("Wrong password");
  if (!answer.ok) throw new Error(`The server answered ${answer.status}`);
  sessionStorage.setItem(KEY, (await answer.json()).token);
}

export function logOut() {
  sessionStorage.removeItem(KEY);
}
