// Elements are made here and nowhere else: whatever comes from a record becomes a text node or an attribute, never markup.

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element; `on` holds its listeners. */
function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
function s(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function byId(id) {
  return document.getElementById(id);
}

/** A number as people read it: five significant digits, exponents only where they help. */
function readable(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-4 || size >= 1e7) ? value.toExponential(2) : String(Number(value.toPrecision(5)));
}

/** The mark of a kind of row; `before` says of how many. */
function badge(kind, before) {
  return h("span", { class: `badge ${kind}` }, (before || "") + (kind === "synthetic" ? "SYNTHETIC" : kind));
}

/** A pressed or unpressed button. */
function toggle(label, pressed, change, attributes) {
  const button = h("button", { type: "button", "aria-pressed": String(pressed), ...attributes }, label);
  button.addEventListener("click", () => {
    const now = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(now));
    change(now);
  });
  return button;
}

/** Buttons of which one is chosen. */
function choice(label, options, chosen, change) {
  const buttons = options.map(([value, text]) =>
    h("button", { type: "button", "aria-pressed": String(value === chosen), on: { click: () => choose(value) } }, text),
  );
  function choose(value) {
    options.forEach(([other], i) => buttons[i].setAttribute("aria-pressed", String(other === value)));
    change(value);
  }
  return h("div", { class: "segments", role: "group", "aria-label": label }, buttons);
}

/** A menu of check boxes that opens below its name; `options` are [value, text, checked]. */
function menu(label, options, change) {
  const summary = h("summary", {}, label);
  const boxes = options.map(([value, text, checked]) => {
    const box = h("input", { type: "checkbox", on: { change: () => change(value, box.checked) } });
    box.checked = checked;
    return h("label", {}, box, h("span", {}, text));
  });
  const details = h("details", { class: "menu" }, summary, h("div", { class: "options" }, boxes));
  details.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !details.open) return;
    details.open = false;
    summary.focus();
    event.stopPropagation();
  });
  return { details, summary, boxes: boxes.map((box) => box.firstChild) };
}

document.addEventListener("click", (event) => {
  for (const open of document.querySelectorAll("details.menu[open]")) if (!open.contains(event.target)) open.open = false;
});

/** Show `data-tip` of whatever is hovered or focused, next to it. */
function watchTips() {
  const tip = byId("tip");
  function show(event) {
    const host = event.target.closest && event.target.closest("[data-tip]");
    if (!host) return hide();
    tip.textContent = host.dataset.tip;
    (host.closest("dialog") || document.body).append(tip);
    tip.hidden = false;
    const at = host.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const left = Math.max(8, Math.min(at.left, innerWidth - size.width - 8));
    const top = at.bottom + size.height + 12 > innerHeight ? at.top - size.height - 6 : at.bottom + 6;
    tip.style.left = `${left}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  }
  function hide() {
    tip.hidden = true;
  }
  document.addEventListener("mouseover", show);
  document.addEventListener("focusin", show);
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", hide, { capture: true, passive: true });
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
}
