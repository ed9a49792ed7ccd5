// One experiment: its table with search, facets, columns, sorting and pages; its notes; its curves.

const PAGE = 100;
const PAGED_FROM = 200;
const DRAWN_AT_FIRST = 6;
const ALIKE_FROM = 3; // rows from which a setting that all share is said once above the table
const SHORT = 26; // characters up to which a cell stays on one line
const KINDS = { measured: "measured", synthetic: "synthetic", published: "published only", planned: "planned" };

const textOf = (cell) => (Array.isArray(cell) ? cell[0] : cell === null ? "" : cell);
const isEmpty = (cell) => textOf(cell) === "–" || textOf(cell) === "";

function tableSection(table, page) {
  const id = `table-${table.name}`;
  const state = { sort: -1, down: false, words: [], facets: new Map(), hidden: new Set(), start: 0 };
  const run = table.columns.indexOf("run");
  const numeric = table.columns.map((_, c) => table.rows.some((row) => Array.isArray(row.cells[c])));
  const alike = [];
  table.columns.forEach((name, c) => {
    if (name === "run" || name === "remarks" || !table.rows.length) return;
    const first = textOf(table.rows[0].cells[c]), same = table.rows.every((row) => textOf(row.cells[c]) === first);
    if (!same || (!isEmpty(first) && (page.head.columns[name][2] || table.rows.length < ALIKE_FROM))) return;
    state.hidden.add(name);
    if (!isEmpty(first)) alike.push(`${title(name)} ${first}`);
  });
  if (table.rows.every((row) => !row.notes.length)) state.hidden.add("remarks");
  const curves = curvesOf(table, page, run, () => render());
  const head = h("tr"), body = h("tbody"), pager = h("div", { class: "pager" });
  const count = h("span", { class: "count muted", "aria-live": "polite" });
  const frame = h("div", { class: "frame", tabindex: "0", role: "region", "aria-label": `${table.title}, table` },
    h("table", { class: curves.any ? "stack picks" : "stack" }, h("thead", {}, head), body));
  const clear = h("button", { type: "button", class: "quiet", hidden: true, on: { click: reset } }, "Reset");
  const search = h("input", { type: "search", placeholder: "Filter rows…", "aria-label": `Filter the rows of ${table.title}`, on: { input: refilter } });
  const facets = facetMenus();

  function refilter() {
    state.words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    state.start = 0;
    keep();
    render();
  }

  /** Puts what the reader set into the address. */
  function keep() {
    const facet = Object.fromEntries([...state.facets].filter(([, each]) => each.chosen.size).map(([name, each]) => [name, [...each.chosen]]));
    address.set(id, { q: search.value, sort: state.sort < 0 ? null : table.columns[state.sort], up: state.sort >= 0 && !state.down ? 1 : null, facet: Object.keys(facet).length ? facet : null });
  }

  /** Takes from the address what the table knows of it. */
  function restore() {
    const kept = address.get(id), facet = kept.facet !== null && typeof kept.facet === "object" ? kept.facet : {};
    search.value = typeof kept.q === "string" ? kept.q : "";
    state.words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    Object.assign(state, { sort: table.columns.indexOf(kept.sort), down: !kept.up, start: 0 });
    for (const made of facets) made.restore(Array.isArray(facet[made.name]) ? facet[made.name] : []);
  }

  function facetMenus() {
    const readers = page.head.facets.map((name, i) => [name, (row) => row.facets[i]]);
    readers.push(["rows", (row) => KINDS[row.kind]]);
    return readers.map(([name, read]) => {
      const counts = new Map();
      for (const row of table.rows) counts.set(read(row), (counts.get(read(row)) || 0) + 1);
      const chosen = new Set();
      state.facets.set(name, { chosen, read });
      if (counts.size < 2) return null;
      const values = [...counts.keys()].sort((a, b) => (a === "–") - (b === "–") || a.localeCompare(b, "en", { numeric: true }));
      const made = menu(name, values.map((value) => [value, `${value} (${counts.get(value)})`, false]), (value, on) => {
        if (on) chosen.add(value);
        else chosen.delete(value);
        state.start = 0;
        keep();
        render();
      });
      made.name = name;
      made.restore = (wanted) => {
        chosen.clear();
        values.forEach((value, i) => {
          made.boxes[i].checked = wanted.includes(value);
          if (made.boxes[i].checked) chosen.add(value);
        });
      };
      made.refresh = () => {
        made.summary.textContent = chosen.size ? `${name}: ${chosen.size === 1 ? [...chosen][0] : chosen.size}` : name;
        made.details.classList.toggle("active", chosen.size > 0);
      };
      made.clear = () => {
        chosen.clear();
        for (const box of made.boxes) box.checked = false;
      };
      return made;
    }).filter(Boolean);
  }

  const columnMenu = menu("columns", table.columns.filter((name) => name !== "run").map((name) => [name, title(name), !state.hidden.has(name)]),
    (name, on) => {
      if (on) state.hidden.delete(name);
      else state.hidden.add(name);
      render();
    });

  function title(name) {
    return page.head.columns[name][0];
  }

  function reset() {
    search.value = "";
    for (const facet of facets) facet.clear();
    Object.assign(state, { sort: -1, down: false });
    refilter();
    search.focus();
  }

  function words(row) {
    row.words = row.words || [...row.cells.map(textOf), KINDS[row.kind], ...row.notes.map((n) => table.notes[n - 1])].join(" ").toLowerCase();
    return row.words;
  }

  /** The rows that pass the filters, in the order asked for; what is empty comes last either way. */
  function selected() {
    const rows = table.rows.filter((row) => state.words.every((word) => words(row).includes(word)) &&
      [...state.facets.values()].every(({ chosen, read }) => !chosen.size || chosen.has(read(row))));
    if (state.sort < 0) return rows;
    const value = (row) => (table.columns[state.sort] === "remarks" ? [row.notes.length, row.notes.length] : row.cells[state.sort]);
    return rows.map((row, i) => [value(row), i, row]).sort(([a, i], [b, j]) => {
      if (isEmpty(a) || isEmpty(b)) return isEmpty(a) - isEmpty(b) || i - j;
      const order = Array.isArray(a) && Array.isArray(b) ? a[1] - b[1] :
        Array.isArray(a) !== Array.isArray(b) ? (Array.isArray(a) ? -1 : 1) : textOf(a).localeCompare(textOf(b), "en", { numeric: true });
      return (state.down ? -order : order) || i - j;
    }).map((each) => each[2]);
  }

  /** First click: ascending for text, descending for numbers; second: the other way; third: as laid out. */
  function sortBy(c) {
    const first = numeric[c];
    if (state.sort !== c) Object.assign(state, { sort: c, down: first });
    else if (state.down === first) state.down = !first;
    else Object.assign(state, { sort: -1, down: false });
    keep();
    render();
    const again = [...head.children].find((cell) => Number(cell.dataset.column) === c);
    if (again) again.firstChild.focus();
  }

  function headings() {
    const cells = table.columns.map((name, c) => {
      if (state.hidden.has(name)) return null;
      const sorted = state.sort === c ? (state.down ? "descending" : "ascending") : "none";
      const [text, hint] = page.head.columns[name];
      const button = h("button", { type: "button", "data-tip": hint || null, on: { click: () => sortBy(c) } }, text,
        h("span", { class: "arrow", "aria-hidden": "true" }, sorted === "none" ? "" : state.down ? "↓" : "↑"));
      return h("th", { scope: "col", "aria-sort": sorted, class: cellClass(name, c), "data-column": c }, button);
    });
    if (curves.any) cells.unshift(h("th", { scope: "col", class: "pick" }, h("span", { class: "unseen" }, "curve")));
    head.replaceChildren(...cells.filter(Boolean));
  }

  function cellClass(name, c) {
    const parts = [numeric[c] ? "number" : "", /^(published_|source$)/.test(name) ? "theirs" : "", name === "run" ? "run" : ""];
    return parts.filter(Boolean).join(" ") || null;
  }

  function line(row) {
    const cells = table.columns.map((name, c) => {
      if (state.hidden.has(name)) return null;
      const attributes = { class: cellClass(name, c) };
      if (name === "remarks") return h("td", { class: "remarks", "data-label": title(name) }, row.notes.map(footnote));
      const label = textOf(row.cells[c]);
      if (c !== run) return h("td", { class: `${attributes.class || ""}${isEmpty(label) ? " none" : ""}${label.length <= SHORT ? " short" : ""}`, "data-label": title(name) }, label);
      const open = row.runs.length ? h("button", { type: "button", class: "link", on: { click: () => page.open(row.runs[0], row.runs) } }, label) : label;
      return h("th", { scope: "row", ...attributes }, h("div", {}, h("span", { class: label.length <= SHORT ? "short" : null }, open), row.kind === "measured" ? null : badge(row.kind)));
    });
    if (curves.any) cells.unshift(h("td", { class: "pick" }, curves.pick(row)));
    return h("tr", { class: row.kind }, cells);
  }

  function footnote(number) {
    return h("a", { href: `#${id}-note-${number}`, "data-tip": table.notes[number - 1], "aria-label": `note ${number}: ${table.notes[number - 1]}` }, number);
  }

  function render(all) {
    const rows = selected(), paged = table.rows.length > PAGED_FROM && !all;
    state.start = Math.min(state.start, Math.max(0, Math.ceil(rows.length / PAGE) - 1) * PAGE);
    const shown = paged ? rows.slice(state.start, state.start + PAGE) : rows;
    headings();
    body.replaceChildren(...shown.map(line));
    if (!rows.length) body.append(h("tr", {}, h("td", { class: "empty", colspan: head.children.length }, "No row passes these filters.")));
    for (const facet of facets) facet.refresh();
    columnMenu.summary.textContent = `columns ${table.columns.length - state.hidden.size} of ${table.columns.length}`;
    const filtered = rows.length < table.rows.length;
    count.textContent = filtered ? `${readable(rows.length)} of ${readable(table.rows.length)} rows` : `${readable(rows.length)} ${rows.length === 1 ? "row" : "rows"}`;
    clear.hidden = !filtered && state.sort < 0;
    pages(rows.length, paged && rows.length > PAGE);
  }

  function pages(rows, wanted) {
    const turn = (by) => () => {
      state.start += by * PAGE;
      render();
      frame.scrollTop = 0;
    };
    pager.hidden = !wanted;
    if (!wanted) return;
    const last = Math.min(rows, state.start + PAGE);
    pager.replaceChildren(
      h("button", { type: "button", disabled: state.start === 0, on: { click: turn(-1) } }, "← Previous"),
      h("span", { class: "muted" }, `rows ${readable(state.start + 1)} to ${readable(last)} of ${readable(rows)}`),
      h("button", { type: "button", disabled: last === rows, on: { click: turn(1) } }, "Next →"),
    );
  }

  restore();
  render();
  address.changed(() => {
    restore();
    render();
  });
  addEventListener("beforeprint", () => render(true));
  addEventListener("afterprint", () => render());
  const synthetic = table.rows.filter((row) => row.kind === "synthetic").length, measured = table.rows.filter((row) => row.runs.length).length;
  return h("section", { id, "aria-labelledby": `${id}-title` },
    h("h2", { id: `${id}-title` }, table.title, synthetic ? badge("synthetic", synthetic < measured ? `${readable(synthetic)} of ${readable(measured)} measured rows ` : "") : null),
    h("p", { class: "muted about" }, `Protocol ${table.protocol} · ${readable(table.measured)} of ${readable(table.planned)} planned runs measured`),
    table.expect ? h("p", { class: "about" }, h("span", { class: "muted" }, "Expected: "), table.expect) : null,
    table.explanations.map((text) => h("p", { class: "muted about" }, text)),
    alike.length ? h("p", { class: "about" }, h("span", { class: "muted" }, "The same in every row: "), alike.join(", "), ".") : null,
    h("div", { class: "tools" }, search, facets.map((facet) => facet.details), columnMenu.details, clear, count),
    frame, pager,
    table.notes.length ? h("details", { class: "notes", open: table.notes.length <= 6 }, h("summary", {}, `Notes (${table.notes.length})`),
      h("ol", {}, table.notes.map((text, i) => h("li", { id: `${id}-note-${i + 1}` }, text)))) : null,
    curves.figure,
  );
}

/** The curves of a table: a row is one colour, its seeds share it; rows are picked in the table and hidden in the legend. */
function curvesOf(table, page, run, changed) {
  const drawable = (row) => row.runs.some((name) => page.runs[name] && page.runs[name].epoch.length);
  const rows = table.rows.filter(drawable);
  if (!rows.length) return { any: false, figure: null, pick: () => null };
  const slots = new Map(rows.slice(0, DRAWN_AT_FIRST).map((row, i) => [row, i]));
  const hidden = new Set();
  const metrics = [...table.curves, "lr"].filter((m) => rows.some((row) => row.runs.some((name) => seriesOf(page.runs[name], m, "", 0).length)));
  let metric = metrics[0], log = false;
  const legend = h("div", { class: "legend" }), plot = h("div", { class: "chart" });
  const figure = h("figure", {},
    h("div", { class: "tools" },
      choice("Curve", metrics.map((name) => [name, name === "lr" ? "learning rate" : (page.head.columns[name] || [name])[0]]), metric, (next) => {
        metric = next;
        draw();
      }),
      toggle("log scale", false, (on) => {
        log = on;
        draw();
      }, { class: "quiet" })),
    plot, legend);
  const picture = chart(plot, table.title);

  const label = (row) => textOf(row.cells[run]) + (row.kind === "synthetic" ? " (synthetic)" : "");

  function draw() {
    const series = [...slots].filter(([row]) => !hidden.has(row)).flatMap(([row, slot]) => row.runs.flatMap((name) => {
      const seed = row.runs.length > 1 ? `, seed ${page.runs[name].seed}` : "";
      return seriesOf(page.runs[name], metric, label(row) + seed, slot);
    }));
    picture.update({ series, log, label: metric === "lr" ? "learning rate" : page.head.axes[metric] || metric });
    const left = rows.length - slots.size;
    legend.replaceChildren(...[...slots].map(([row, slot]) => toggle([key(slot), h("span", {}, label(row))], !hidden.has(row), (on) => {
      if (on) hidden.delete(row);
      else hidden.add(row);
      draw();
      [...legend.querySelectorAll("button")][[...slots.keys()].indexOf(row)].focus();
    }, { class: "entry" })), h("span", { class: "muted" }, [
      metric === "loss" ? "solid: evaluation split, dashed: training split" : "",
      left > 0 ? `${left} more ${left === 1 ? "row" : "rows"}: pick them in the first column of the table` : ""].filter(Boolean).join(" · ")));
  }

  function pick(row) {
    if (!drawable(row)) return null;
    const slot = slots.get(row);
    return h("button", {
      type: "button", class: `swatch ${slot === undefined ? "" : `c${slot % COLOURS}`}`, "aria-pressed": String(slot !== undefined),
      "aria-label": `curve of ${label(row)}`, "data-tip": slot === undefined ? (slots.size < SLOTS ? "Draw its curve" : `At most ${SLOTS} rows are drawn; remove one first`) : "Remove its curve",
      on: { click: (event) => {
        if (slot !== undefined) slots.delete(row);
        else if (slots.size < SLOTS) slots.set(row, free());
        hidden.delete(row);
        const place = [...event.target.closest("tbody").children].indexOf(event.target.closest("tr"));
        const body = event.target.closest("tbody");
        changed();
        draw();
        body.children[place].querySelector(".swatch").focus();
      } },
    });
  }

  function free() {
    const taken = new Set(slots.values());
    let slot = 0;
    while (taken.has(slot)) slot++;
    return slot;
  }

  draw();
  return { any: true, figure, pick };
}
