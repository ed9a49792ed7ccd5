// What a reader has set, kept in the address: `#run=…&<table>=<JSON>`. A link carries it, and going back restores it.

const address = (() => {
  let held = new Map();
  const listeners = [];

  function read() {
    held = new Map();
    const text = location.hash.slice(1);
    if (text.includes("=")) for (const [name, value] of new URLSearchParams(text)) held.set(name, value);
  }

  function write() {
    const run = held.get("run"), rest = [...held].filter(([name]) => name !== "run");
    const parts = [...(run === undefined ? [] : [["run", run]]), ...rest].map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`);
    history.replaceState(null, "", parts.length ? `#${parts.join("&")}` : location.pathname + location.search);
  }

  /** Keeps a text, or forgets it where there is none. */
  function put(name, text) {
    if (text) held.set(name, text);
    else held.delete(name);
    write();
  }

  /** What was kept under a name as an object; an empty one where nothing was, or it cannot be read. */
  function get(name) {
    try {
      const value = JSON.parse(held.get(name) || "{}");
      return value !== null && typeof value === "object" && !Array.isArray(value) ? value : {};
    } catch (malformed) {
      return {};
    }
  }

  /** Keeps an object without what is empty. */
  function set(name, value) {
    const full = Object.entries(value).filter(([, each]) => each !== null && each !== undefined && each !== "" && !(Array.isArray(each) && !each.length));
    put(name, full.length ? JSON.stringify(Object.fromEntries(full)) : "");
  }

  addEventListener("hashchange", () => {
    if (location.hash && !location.hash.includes("=")) return;
    read();
    for (const changed of listeners) changed();
  });
  read();
  return { get, set, put, text: (name) => held.get(name) || "", changed: (listener) => listeners.push(listener) };
})();

/** Links within the page go where they point without taking the place of what the address holds. */
document.addEventListener("click", (event) => {
  const link = event.target.closest && event.target.closest('a[href^="#"]');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const place = byId(decodeURIComponent(link.getAttribute("href").slice(1)));
  if (!place) return;
  event.preventDefault();
  goTo(place);
});

/** Shows an element: what it is folded into opens, and it is marked until the next. */
function goTo(place) {
  for (const other of document.querySelectorAll(".at")) other.classList.remove("at");
  for (let host = place.parentElement; host; host = host.parentElement) if (host.tagName === "DETAILS") host.open = true;
  place.classList.add("at");
  place.scrollIntoView();
  if (!place.hasAttribute("tabindex")) place.setAttribute("tabindex", "-1");
  place.focus({ preventScroll: true });
}
