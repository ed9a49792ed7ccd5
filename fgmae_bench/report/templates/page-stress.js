// The physics card of a run: a table of tolerances, and the score over severity of the stress that is chosen.

const CARD = { width: 460, height: 190, left: 44, right: 12, top: 10, bottom: 34 };

function stressCard(record) {
  const tolerances = Object.entries(record.metrics.tolerance).filter(([name]) => record.stress.some((item) => item.name === name));
  const host = h("div", { class: "stress-plot" });
  const draw = (name) => host.replaceChildren(stressPlot(record, name));
  draw(tolerances[0][0]);
  const first = tolerances[0][1];
  return h("div", {},
    h("p", { class: "muted" }, `${called(first.metric)} ${first.clean.toFixed(3)} on clean data, chance ${first.chance.toFixed(3)}${first.null ? `, backscatter statistics ${first.null.clean.toFixed(3)}` : ""}. Stresses are simulated: unvalidated.`),
    grid(["stress", "tolerated", "95 %", "area kept", "real products differ by"], tolerances.map(([name, found]) => [
      h("button", { type: "button", class: "quiet", on: { click: () => draw(name) } }, name),
      found.withheld ? `withheld: ${found.withheld}` : `${found.value === null ? beyondLast(record, name) : found.value.toFixed(2)} ${found.unit}`,
      found.interval ? found.interval.map((end) => (end === null ? beyondLast(record, name) : end.toFixed(2))).join(" to ") : "–",
      found.area, found.budget ? `${found.budget[0]} (${found.budget[1]})` : "–"])),
    host, ...strataOf(record));
}

/** Clean scores by season, orbit and what else the data knows; places that two values share give a difference. */
function strataOf(record) {
  const rows = Object.entries(record.metrics.strata || {}).flatMap(([name, found]) => [
    ...Object.entries(found.values).map(([value, score]) => [`${name}: ${value}`, score.samples, `${score.units} ${score.over}`, score.value, endsOf(score)]),
    ...found.pairs.map((pair) => [`${name}: ${pair.a} less ${pair.b}, same places`, "–", `${pair.places} places`, pair.difference, endsOf(pair)])]);
  return rows.length ? [grid(["stratum", "samples", "units", "clean score", "95 %"], rows)] : [];
}

/** Words of ticks, none where it would run into the one before it. */
function apart(places, words) {
  let last = places[0];
  return words.map((word, i) => {
    const free = i === 0 || places[i] - last >= 14 + 3 * word.length + (last === places[0] ? 8 : 0);
    last = free ? places[i] : last;
    return free ? word : "";
  });
}

const endsOf = (found) => (found.interval ? found.interval.map((end) => end.toFixed(3)).join(" to ") : `withheld: ${found.withheld}`);

const itemsOf = (record, name) => record.stress.filter((item) => item.name === name);
const beyondLast = (record, name) => `> ${itemsOf(record, name).at(-1).severity}`;

/** Score over severity with its paired band; dashed: backscatter statistics; dotted: chance. */
function stressPlot(record, name) {
  const found = record.metrics.tolerance[name], items = itemsOf(record, name), clean = found.clean;
  const at = [0, ...(found.positions || items.map((item) => item.severity))];
  const own = [clean, ...items.map((item) => clean + (item.metrics.change || 0))];
  const band = [[clean, clean], ...items.map((item) => (item.metrics.change_interval || [item.metrics.change || 0, item.metrics.change || 0]).map((end) => clean + end))];
  const none = found.null && items.every((item) => typeof item.metrics.beyond_null === "number")
    ? [found.null.clean, ...items.map((item) => found.null.clean + item.metrics.change - item.metrics.beyond_null)] : null;
  const values = [...own, ...band.flat(), ...(none || []), found.chance];
  const low = Math.min(...values), high = Math.max(...values), last = at[at.length - 1] || 1;
  const x = (v) => CARD.left + ((CARD.width - CARD.left - CARD.right) * v) / last;
  const y = (v) => CARD.height - CARD.bottom - ((CARD.height - CARD.top - CARD.bottom) * (v - low)) / (high - low || 1);
  const path = (ys) => ys.map((v, i) => `${i ? "L" : "M"}${x(at[i]).toFixed(1)} ${y(v).toFixed(1)}`).join("");
  const area = `${path(band.map((pair) => pair[1]))}${band.map((pair, i) => `L${x(at[i]).toFixed(1)} ${y(pair[0]).toFixed(1)}`).reverse().join("")}Z`;
  const words = ["clean", ...items.map((item) => String(item.severity))];
  return h("figure", {}, s("svg", { viewBox: `0 0 ${CARD.width} ${CARD.height}`, class: "stress", role: "img", "aria-label": `${name}: ${called(found.metric)} over severity in ${found.unit}` },
    s("path", { d: area, class: "band" }), s("path", { d: path(own), class: "own" }),
    none ? s("path", { d: path(none), class: "null" }) : null,
    s("path", { d: `M${CARD.left} ${y(found.chance)}H${CARD.width - CARD.right}`, class: "chance" }),
    [low, high].map((v) => s("text", { x: CARD.left - 6, y: y(v) + 4, "text-anchor": "end" }, v.toFixed(2))),
    apart(at.map(x), words).map((word, i) => s("text", { x: x(at[i]), y: CARD.height - CARD.bottom + 16, "text-anchor": "middle" }, word))),
  h("figcaption", { class: "muted" }, `${name}, ${found.unit}: ${called(found.metric)} with its paired 95 % band; dashed: backscatter statistics, dotted: chance`));
}
