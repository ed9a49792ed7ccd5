// The board: models by datasets with what tests say, two models side by side, ranks, scores against cost, physics cards, label curves.

const [TEXT, NUMBER, INTERVAL, DELTA, BEST, RUNS, COSTS, MACHINE] = [0, 1, 2, 3, 4, 5, 6, 7];
const SAID = { above: "separated", equal: "equal within the margin", none: "not separated", untested: "not tested" };

function boardSections(board, page) {
  if (!board) return [];
  return [
    ...board.pivots.map((pivot) => pivotSection(pivot, board, page)),
    board.agreement ? sheetSection(board.agreement) : null,
    board.cards.length ? cardSection(board.cards, page) : null,
    ...board.labels.map(labelSection),
  ].filter(Boolean);
}

function pivotSection(pivot, board, page) {
  const id = `board-${pivot.name}`, state = { q: "", sort: null, down: true, pick: [] };
  const head = h("tr"), body = h("tbody"), beside = h("div", { class: "beside", "aria-live": "polite" });
  const count = h("span", { class: "count muted", "aria-live": "polite" });
  const search = h("input", { type: "search", placeholder: "Filter models…", "aria-label": `Filter the models of ${pivot.title}`, on: { input: () => change({ q: search.value }) } });
  const clear = h("button", { type: "button", class: "quiet", hidden: true, on: { click: () => change({ q: "", sort: null, down: true, pick: [] }) } }, "Reset");

  function change(to) {
    Object.assign(state, to);
    address.set(id, { q: state.q, sort: state.sort === null ? null : String(state.sort), up: state.sort !== null && !state.down ? 1 : null, pick: state.pick });
    render();
  }

  function restore() {
    const kept = address.get(id), sort = Number.parseInt(kept.sort, 10), most = pivot.places.length;
    state.q = typeof kept.q === "string" ? kept.q : "";
    state.sort = sort >= -1 && sort < most ? sort : null;
    state.down = !kept.up;
    state.pick = (Array.isArray(kept.pick) ? kept.pick : []).filter((i) => Number.isInteger(i) && i >= 0 && i < pivot.lines.length).slice(0, 2);
    render();
  }

  function shown() {
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const lines = pivot.lines.map((line, i) => ({ line, i })).filter(({ line }) => words.every((word) => line.label.toLowerCase().includes(word)));
    if (state.sort === null) return lines;
    const value = ({ line }) => (state.sort === -1 ? line.label : line.cells[state.sort] && line.cells[state.sort][NUMBER]);
    return lines.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null) || a.i - b.i;
      const order = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
      return (state.down ? -order : order) || a.i - b.i;
    });
  }

  /** First click: numbers fall, names rise; then the other way; then the order of the files. */
  function sortBy(c) {
    const first = c !== -1;
    if (state.sort !== c) change({ sort: c, down: first });
    else if (state.down === first) change({ down: !first });
    else change({ sort: null, down: true });
    const again = head.querySelector(`[data-column="${c}"] button`);
    if (again) again.focus();
  }

  function heading(text, c, number, place) {
    const sorted = state.sort === c ? (state.down ? "descending" : "ascending") : "none";
    const button = h("button", { type: "button", on: { click: () => sortBy(c) } }, text, place && place.synthetic ? badge("synthetic") : null,
      h("span", { class: "arrow", "aria-hidden": "true" }, sorted === "none" ? "" : state.down ? "↓" : "↑"));
    return h("th", { scope: "col", "aria-sort": sorted, class: number ? "number wrap" : "run", "data-column": c }, button);
  }

  function cell(found, c) {
    const label = pivot.places[c].heading;
    if (!found) return h("td", { class: "number none", "data-label": label }, "–");
    const open = h("button", { type: "button", class: `link ${found[BEST] ? "best" : ""}`, on: { click: () => page.open(found[RUNS][0], found[RUNS]) } }, found[TEXT]);
    return h("td", { class: "number", "data-label": label }, h("div", {}, open, found[BEST] ? h("span", { class: "unseen" }, " may be best") : null,
      h("small", { class: "muted" }, [found[INTERVAL], found[DELTA]].filter(Boolean).join("; "))));
  }

  function line({ line: each, i }) {
    const box = h("input", { type: "checkbox", "aria-label": `Compare ${each.label}`, on: { change: () => pick(i, box.checked) } });
    box.checked = state.pick.includes(i);
    return h("tr", {}, h("td", { class: "pick" }, box), h("th", { scope: "row", class: "run" }, each.label),
      h("td", { class: "short", "data-label": "± over" }, each.over), each.cells.map(cell));
  }

  function pick(i, on) {
    change({ pick: on ? [...state.pick, i].slice(-2) : state.pick.filter((other) => other !== i) });
    const place = shown().findIndex((each) => each.i === i);
    if (place >= 0 && body.children[place]) body.children[place].querySelector("input").focus();
  }

  function verdict(c, i, j) {
    const tests = pivot.places[c].tests, has = (list, a, b) => list.some(([x, y]) => x === a && y === b);
    if (!tests) return SAID.untested;
    if (has(tests.above, i, j) || has(tests.above, j, i)) return SAID.above;
    return has(tests.equal, i, j) || has(tests.equal, j, i) ? SAID.equal : SAID.none;
  }

  function compare() {
    if (state.pick.length < 2) return beside.replaceChildren(state.pick.length ? h("p", { class: "muted" }, `${pivot.lines[state.pick[0]].label}: tick a second model to compare the two.`) : "");
    const [i, j] = state.pick, [a, b] = [pivot.lines[i], pivot.lines[j]];
    const rows = pivot.places.map((place, c) => {
      const [x, y] = [a.cells[c], b.cells[c]], both = x && y;
      const costs = both ? Object.entries(board.costs).map(([, [name, , machine]], n) => (x[COSTS][n] && y[COSTS][n] && (!machine || (x[MACHINE] && x[MACHINE] === y[MACHINE])) ? `${name} × ${readable(x[COSTS][n] / y[COSTS][n])}` : "")).filter(Boolean) : [];
      return h("tr", {}, h("th", { scope: "row", class: "run" }, place.heading), ...[x, y].map((found, n) => h("td", { class: "number", "data-label": [a, b][n].label }, found ? found[TEXT] : "–")),
        h("td", { class: "number", "data-label": "A − B" }, both ? signed(x[NUMBER] - y[NUMBER]) : "–"), h("td", { "data-label": "tests" }, both ? verdict(c, i, j) : "–"), h("td", { "data-label": "cost, A / B" }, costs.join(", ") || "–"));
    });
    beside.replaceChildren(h("h3", {}, `A: ${a.label} · B: ${b.label}`), h("div", { class: "frame", tabindex: "0" }, h("table", { class: "stack" },
      h("thead", {}, h("tr", {}, ["dataset", "A", "B", "A − B", "tests", "cost, A / B"].map((text, n) => h("th", { scope: "col", class: n && n < 4 ? "number" : null }, h("span", { class: "plain-head" }, text))))), h("tbody", {}, rows))));
  }

  function render() {
    if (search.value !== state.q) search.value = state.q;
    const lines = shown(), paged = lines.slice(0, PAGE);
    head.replaceChildren(h("th", { scope: "col", class: "pick" }, h("span", { class: "unseen" }, "compare")), heading("model", -1, false),
      h("th", { scope: "col" }, h("span", { class: "plain-head" }, "± over")), ...pivot.places.map((place, c) => heading(place.heading, c, true, place)));
    body.replaceChildren(...paged.map(line));
    if (!lines.length) body.append(h("tr", {}, h("td", { class: "empty", colspan: head.children.length }, "No model passes this filter.")));
    count.textContent = lines.length > PAGE ? `first ${PAGE} of ${readable(lines.length)} models: filter for others` : `${readable(lines.length)} of ${readable(pivot.lines.length)} models`;
    clear.hidden = !state.q && state.sort === null && !state.pick.length;
    compare();
  }

  /** One click from a rank to what it rests on: the model's scores. */
  function restOn(label) {
    change({ q: label, sort: null });
    goTo(byId(id));
  }

  restore();
  address.changed(restore);
  const frame = h("div", { class: "frame", tabindex: "0", role: "region", "aria-label": `${pivot.title}, table` }, h("table", { class: "stack pivot" }, h("thead", {}, head), body));
  return h("section", { id, class: "board", "aria-labelledby": `${id}-title` },
    h("h2", { id: `${id}-title` }, pivot.title, pivot.places.some((place) => place.synthetic) ? badge("synthetic", pivot.places.every((place) => place.synthetic) ? "" : "some columns ") : null),
    pivot.sentences.map((text) => h("p", { class: "muted about" }, text)),
    h("div", { class: "tools" }, search, clear, count), frame, beside,
    pivot.notes.length ? h("ul", { class: "plain notes" }, pivot.notes.map((text) => h("li", {}, text))) : null,
    rankPart(pivot, restOn), costPart(pivot, board, page));
}

/** Width of a picture's own units: fewer on a phone, where the same letters would be too small to read. */
const pictureWidth = () => (window.matchMedia("(max-width: 560px)").matches ? 360 : 720);

const signed = (value) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(3);

function rankPart(pivot, restOn) {
  if (pivot.rank.why) return h("p", { class: "about" }, h("span", { class: "muted" }, "No ranking: "), `${pivot.rank.why}.`);
  return h("div", { class: "rank" }, h("h3", {}, "Rank"), pivot.rank.sentences.map((text) => h("p", { class: "muted about" }, text)), sheetTable(pivot.rank, restOn),
    pivot.rank.notes.map((text) => h("p", { class: "muted about" }, text)));
}

/** A plain table; the first cell of a row is a button where `open` is given. */
function sheetTable(sheet, open) {
  return h("div", { class: "frame", tabindex: "0", role: "region", "aria-label": sheet.title }, h("table", { class: "stack" },
    h("thead", {}, h("tr", {}, sheet.headings.map(([text, number]) => h("th", { scope: "col", class: number ? "number" : null }, h("span", { class: "plain-head" }, text))))),
    h("tbody", {}, sheet.rows.map((row) => h("tr", {}, row.map((text, c) => (c === 0
      ? h("th", { scope: "row", class: "run" }, open ? h("button", { type: "button", class: "link", "data-tip": "Shows the scores that the rank rests on", on: { click: () => open(text) } }, text) : text)
      : h("td", { class: sheet.headings[c][1] ? "number" : null, "data-label": sheet.headings[c][0] }, text))))))));
}

function sheetSection(sheet) {
  return h("section", { id: `board-${sheet.name}` }, h("h2", {}, sheet.title), sheet.sentences.map((text) => h("p", { class: "muted about" }, text)), sheetTable(sheet));
}

/** Points of score against a cost, with the front of models that none beats in both; of a cost that depends on the machine those of one. */
function costPart(pivot, board, page) {
  const every = (axis, c) => pivot.lines.map((line, i) => ({ i, line, found: line.cells[c], x: line.cells[c] && line.cells[c][COSTS][axis], y: line.cells[c] && line.cells[c][NUMBER] })).filter((p) => p.x > 0 && p.y !== null);
  const known = (axis, c) => every(axis.n, c).filter((p) => !axis.machine || p.found[MACHINE] === axis.machine);
  const machines = [...new Set(pivot.lines.flatMap((line) => line.cells).map((cell) => cell && cell[MACHINE]).filter(Boolean))];
  const axes = Object.values(board.costs)
    .flatMap(([label, less, bound], n) => (bound ? machines.map((machine) => ({ label: `${label}, ${machine}`, name: machines.length > 1 ? `${label}, ${machine}` : label, less, n, machine })) : [{ label, name: label, less, n, machine: "" }]))
    .filter((axis) => pivot.places.some((_, c) => new Set(known(axis, c).map((p) => p.x)).size > 1));
  if (!axes.length) return null;
  let axis = axes[0], place = 0;
  const plot = h("div", { class: "scatter" });

  function draw() {
    const points = known(axis, place), others = every(axis.n, place).length - points.length, width = pictureWidth(), tall = 320, m = { l: 64, r: 20, t: 12, b: 44 };
    if (new Set(points.map((p) => p.x)).size < 2) return plot.replaceChildren(h("p", { class: "empty" }, "Fewer than two models of this dataset have a known cost here."));
    const xs = points.map((p) => Math.log(p.x)), low = Math.min(...xs), span = Math.max(...xs) - low, y = valueScale(points.map((p) => p.y), false);
    const left = (v) => m.l + ((Math.log(v) - low) / span) * (width - m.l - m.r), top = (v) => tall - m.b - y.of(v) * (tall - m.t - m.b);
    const order = [...points].sort((a, b) => (axis.less ? a.x - b.x : b.x - a.x) || b.y - a.y), front = [];
    for (const p of order) if (!front.length || p.y > front.at(-1).y) front.push(p);
    const ticks = logTicks(Math.exp(low), Math.exp(low + span));
    const picture = s("svg", { viewBox: `0 0 ${width} ${tall}`, role: "img", "aria-label": `${pivot.places[place].heading} against ${axis.label}; front: ${front.map((p) => p.line.label).join(", ")}` },
      y.ticks.map((t) => [s("line", { class: "grid", x1: m.l, x2: width - m.r, y1: top(t), y2: top(t) }), s("text", { class: "tick", x: m.l - 8, y: top(t) + 4, "text-anchor": "end" }, readable(t))]),
      ticks.map((t) => s("text", { class: "tick", x: left(t), y: tall - m.b + 18, "text-anchor": "middle" }, readable(t))),
      s("text", { class: "axis", x: (m.l + width) / 2, y: tall - 6, "text-anchor": "middle" }, axis.label + (axis.less ? "" : " (more is better)")),
      s("polyline", { class: "front", points: front.map((p) => `${left(p.x)},${top(p.y)}`).join(" ") }),
      points.map((p) => {
        const found = p.line.cells[place];
        return s("circle", { class: front.includes(p) ? "point on" : "point", cx: left(p.x), cy: top(p.y), r: 5, tabindex: "0", role: "button", "aria-label": `${p.line.label}: ${found[TEXT]}, ${axis.label} ${readable(p.x)}`, "data-tip": `${p.line.label}: ${found[TEXT]}, ${axis.label} ${readable(p.x)}`,
          on: { click: () => page.open(found[RUNS][0], found[RUNS]), keydown: (event) => event.key === "Enter" && page.open(found[RUNS][0], found[RUNS]) } });
      }));
    plot.replaceChildren(picture, h("p", { class: "muted about" }, `Front: ${front.map((p) => p.line.label).join(", ")}.${others ? ` Left out: ${others} of other machines.` : ""}`));
  }
  draw();
  return h("figure", {}, h("h3", {}, "Score against cost"), h("div", { class: "tools" },
    choice("Cost", axes.map((each, i) => [i, each.name]), 0, (i) => {
      axis = axes[i];
      draw();
    }),
    pivot.places.length > 1 ? choice("Dataset", pivot.places.map((each, c) => [c, each.heading]), 0, (c) => {
      place = c;
      draw();
    }) : null), plot);
}

/** Physics cards: what each model tolerates of each stress, with its curve; a click opens the whole card. */
function cardSection(cards, page) {
  const names = [...new Set(cards.flatMap((card) => Object.keys(card.stresses)))];
  return h("section", { id: "board-cards" }, h("h2", {}, "Physics cards"),
    h("p", { class: "muted about" }, "The severity at which 5 % of (clean − chance) are lost; > X: never lost up to X. Read it next to the clean score: a model that ignores the signal tolerates everything. Stresses are simulated."),
    cards.map((card) => h("article", { class: "card" },
      h("h3", {}, h("button", { type: "button", class: "link", on: { click: () => page.open(card.run, [card.run]) } }, card.model), card.synthetic ? badge("synthetic") : null,
        h("span", { class: "muted" }, ` ${card.dataset}, split ${card.split}, ${card.protocol}: ${card.clean === null ? "–" : card.clean.toFixed(3)} on clean data${card.of ? `; ${card.of}` : ""}`)),
      h("dl", { class: "facts" }, names.filter((name) => card.stresses[name]).map((name) => {
        const [value, unit, scores] = card.stresses[name];
        return h("div", {}, h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, value === "withheld" ? h("span", { "data-tip": unit, tabindex: "0" }, "withheld") : `${value} ${unit}`, spark(scores, card.clean, `${name}: ${scores.map(([at, score]) => `${at}: ${readable(score)}`).join(", ")}`)));
      })))));
}

/** A score over severities as a small line that begins at the clean score. */
function spark(scores, clean, told) {
  const points = [[0, clean], ...scores].filter(([, v]) => v !== null);
  if (points.length < 2) return null;
  const last = points.length - 1, most = Math.max(...points.map((p) => p[1])), least = Math.min(0, ...points.map((p) => p[1]));
  const at = ([, v], i) => `${2 + (i / last) * 96},${2 + (1 - (v - least) / (most - least || 1)) * 24}`;
  return s("svg", { class: "spark", viewBox: "0 0 100 28", role: "img", "aria-label": told, "data-tip": told, tabindex: "0" }, s("polyline", { points: points.map(at).join(" ") }));
}

/** Scores over the number of labels, with bands. */
function labelSection(labels) {
  const host = h("div", { class: "scatter" }), width = pictureWidth(), tall = 320, m = { l: 64, r: 20, t: 12, b: 44 };
  const every = labels.lines.flatMap(([, points]) => points), xs = every.map((p) => Math.log(p[0]));
  const low = Math.min(...xs), span = Math.max(...xs) - low || 1, y = valueScale(every.flatMap(([, mean, half]) => [mean - half, mean + half]), false);
  const left = (v) => m.l + ((Math.log(v) - low) / span) * (width - m.l - m.r), top = (v) => tall - m.b - y.of(v) * (tall - m.t - m.b);
  const drawn = labels.lines.slice(0, SLOTS);
  host.append(s("svg", { viewBox: `0 0 ${width} ${tall}`, role: "img", "aria-label": labels.title },
    y.ticks.map((t) => [s("line", { class: "grid", x1: m.l, x2: width - m.r, y1: top(t), y2: top(t) }), s("text", { class: "tick", x: m.l - 8, y: top(t) + 4, "text-anchor": "end" }, readable(t))]),
    [...new Set(every.map((p) => p[0]))].sort((a, b) => a - b).map((t) => s("text", { class: "tick", x: left(t), y: tall - m.b + 18, "text-anchor": "middle" }, readable(t))),
    s("text", { class: "axis", x: (m.l + width) / 2, y: tall - 6, "text-anchor": "middle" }, labels.axis),
    drawn.map(([name, points], i) => s("g", { class: `c${i % COLOURS}` },
      s("polygon", { class: "band", points: [...points.map(([n, mean, half]) => `${left(n)},${top(mean + half)}`), ...[...points].reverse().map(([n, mean, half]) => `${left(n)},${top(mean - half)}`)].join(" ") }),
      s("polyline", { class: `curve${i >= COLOURS ? " d1" : ""}`, points: points.map(([n, mean]) => `${left(n)},${top(mean)}`).join(" ") }),
      points.map(([n, mean, half]) => s("circle", { class: "mark", cx: left(n), cy: top(mean), r: 4, tabindex: "0", "data-tip": `${name}, ${readable(n)}: ${readable(mean)} ± ${readable(half)}`, "aria-label": `${name}, ${readable(n)}: ${readable(mean)} ± ${readable(half)}` }))))));
  return h("section", { id: `board-${labels.name}` }, h("h2", {}, labels.title), host,
    h("div", { class: "legend" }, drawn.map(([name], i) => h("span", { class: "entry" }, key(i), h("span", {}, name))), labels.lines.length > drawn.length ? h("span", { class: "muted" }, `${labels.lines.length - drawn.length} more are in the tables`) : null));
}
