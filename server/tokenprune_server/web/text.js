$("document").value = `Returns and refunds

You may return any item within 30 days of delivery. The item must be unused and in its original packaging. Gift cards and perishable goods cannot be returned.

Once your return reaches our warehouse in Rotterdam, we inspect it within two working days. The refund is then paid to your original means of payment within five working days. Your bank may need another three days to show it.

We pay for the return when the item is faulty or when we sent the wrong one. In all other cases the customer pays the postage, which is 4.95 euros within the country.

Our shop was founded in 1987 by two sisters who sold bicycle bells at the weekly market. Today we employ forty people and ship to twelve countries. The old market stall can be seen in our showroom.

Newsletter: sign up to hear about new colours, opening hours on public holidays and our yearly garage sale. You can unsubscribe at any time.`;
let last = null;

function showBudget() {
  const mode = $("mode").value;
  $("ratio-box").hidden = mode !== "ratio";
  $("tokens").hidden = mode !== "tokens";
  $("ratio-out").textContent = $("ratio").value + " %";
}

function fillNames(names) {
  for (const [title, list] of [["Pipelines", names.pipelines], ["Methods", names.methods]]) {
    addGroup($("method"), title, list.map((name) => new Option(name, name)));
  }
}

function explain(unit) {
  const score = unit.score === null ? "no score" : "score " + Number(unit.score).toPrecision(3);
  return `<b>${unit.kept ? "kept" : "dropped"}</b> · ${score} · ${unit.tokens} tokens`;
}

function render() {
  const box = $("text");
  box.replaceChildren();
  box.classList.toggle("only-kept", $("only").checked);
  if (!last) return;
  if ($("output").checked) { box.textContent = last.result.documents[0].text; return; }
  // Offsets count characters; a JavaScript string counts UTF-16 units.
  const chars = Array.from(last.text);
  const fragment = document.createDocumentFragment();
  for (const unit of last.result.receipts[0].units) {
    const span = document.createElement("span");
    span.className = unit.kept ? "kept" : "dropped";
    span.textContent = chars.slice(unit.start, unit.end).join("");
    span.unit = unit;
    fragment.append(span);
  }
  box.append(fragment);
}

function showStats(result) {
  stats($("text-result"), result.tokens_before, result.tokens_after, result.seconds);
  const units = result.receipts[0].units;
  $("units").textContent = `${units.filter((u) => u.kept).length} of ${units.length} units kept`;
}

async function prune(event) {
  if (event) event.preventDefault();
  const text = $("document").value;
  const document_ = {text};
  if ($("kind").value) document_.kind = $("kind").value;
  const body = {query: $("query").value, documents: [document_], method: $("method").value || undefined};
  if ($("form-out").value) body.output = $("form-out").value;
  if ($("mode").value === "ratio") body.keep_ratio = $("ratio").value / 100;
  if ($("mode").value === "tokens") body.max_tokens = Number($("tokens").value);
  $("go").disabled = true;
  try {
    const result = await call("v1/prune", {method: "POST", body: JSON.stringify(body)});
    last = {text, result};
    showStats(result);
    render();
  } catch (error) {
    last = null;
    failed($("text"), error);
  } finally {
    $("go").disabled = false;
  }
}

$("text").addEventListener("mousemove", (event) => {
  const unit = event.target.unit;
  const tip = $("tip");
  tip.style.display = unit ? "block" : "none";
  if (!unit) return;
  tip.innerHTML = explain(unit) + "<br><span></span>";
  tip.lastChild.textContent = [unit.reason, unit.stage && "stage " + unit.stage].filter(Boolean).join(" · ");
  tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 10) + "px";
  tip.style.top = (event.clientY + 18 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 10 : event.clientY + 18) + "px";
});
$("text").addEventListener("mouseleave", () => { $("tip").style.display = "none"; });
for (const id of ["mode", "ratio"]) $(id).addEventListener("input", showBudget);
for (const id of ["only", "output"]) $(id).addEventListener("change", render);
$("text-form").addEventListener("submit", prune);
showBudget();
