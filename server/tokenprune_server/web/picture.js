let file = null;  // the chosen picture as a data URL
let asked = 0;

function showPictures(setUp) {
  $("picture-setup").hidden = !!setUp;
  $("picture-form").hidden = $("picture-result").hidden = !setUp;
  if (!setUp) return;
  for (const inside of [false, true]) {
    const title = inside ? "Inside the language model (with a question)" : "Before the language model";
    const methods = setUp.methods.filter((one) => one.inside === inside);
    const option = ({name, about}) => Object.assign(new Option(name, name), {about, inside});
    addGroup($("picture-method"), title, methods.map(option));
  }
  $("picture-method").value = setUp.method;
  if (setUp.keep && !Number.isInteger(setUp.keep)) $("picture-ratio").value = Math.round(100 * setUp.keep);
  $("picture-question-box").hidden = !setUp.questions;
  $("picture-no-questions").hidden = setUp.questions;
  describeMethod();
}

function describeMethod() {
  const chosen = $("picture-method").selectedOptions[0];
  $("picture-about").textContent = chosen ? chosen.about : "";
  $("picture-question").required = !!chosen && chosen.inside;
  $("picture-ratio-out").textContent = $("picture-ratio").value + " %";
}

function choose(files) {
  if (!files.length) return;
  const reader = new FileReader();
  reader.addEventListener("load", () => {
    // A file of unknown kind gets one made up; the server looks for itself.
    file = files[0].type ? reader.result : reader.result.replace(/^data:[^;]*/, "data:");
    const preview = new Image();
    preview.alt = files[0].name;
    preview.src = reader.result;
    $("picture-preview").replaceChildren(preview);
    $("picture-name").textContent = files[0].name;
    if ($("picture-form").checkValidity()) look();
  });
  reader.addEventListener("error", () => failed($("picture"), new Error("the file cannot be read")));
  reader.readAsDataURL(files[0]);
}

function figure(title, url) {
  const box = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const image = new Image();
  caption.textContent = title;
  image.alt = title;
  image.src = url;
  box.append(caption, image);
  return box;
}

function line(title, text) {
  const box = document.createElement("p");
  box.className = "said";
  const name = document.createElement("b");
  name.textContent = title + " ";
  box.append(name, text);
  return box;
}

function showPicture(result) {
  stats($("picture-result"), result.tokens_before, result.tokens_after, result.seconds);
  const seen = document.createElement("div");
  seen.className = "seen";
  seen.append(figure("as the encoder sees it", result.picture), figure(result.method, result.marked));
  const lines = [["Kept:", result.summary], ["Answer:", result.answer], ["Note:", result.note]];
  $("picture").replaceChildren(seen, ...lines.filter(([, text]) => text).map(([title, text]) => line(title, text)));
}

async function look(event) {
  if (event) event.preventDefault();
  if (!file) { failed($("picture"), new Error("Choose a picture first.")); return; }
  const body = {image: file, method: $("picture-method").value, keep: $("picture-ratio").value + "%"};
  if ($("picture-question").value.trim()) body.question = $("picture-question").value;
  const mine = ++asked;
  $("picture-go").disabled = true;
  try {
    const result = await call("v1/prune/picture", {method: "POST", body: JSON.stringify(body)});
    if (mine === asked) showPicture(result);
  } catch (error) {
    if (mine === asked) failed($("picture"), error);
  } finally {
    if (mine === asked) $("picture-go").disabled = false;
  }
}

$("picture-file").addEventListener("change", (event) => choose(event.target.files));
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  $("picture-drop").addEventListener(name, (event) => {
    event.preventDefault();
    $("picture-drop").classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop") choose(event.dataTransfer.files);
  });
}
$("picture-ratio").addEventListener("input", describeMethod);
$("picture-method").addEventListener("change", describeMethod);
for (const id of ["picture-ratio", "picture-method"]) {
  $(id).addEventListener("change", () => { if (file && $("picture-form").checkValidity()) look(); });
}
$("picture-form").addEventListener("submit", look);
