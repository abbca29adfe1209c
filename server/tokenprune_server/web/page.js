function show(tab) {
  for (const name of ["texts", "pictures"]) {
    $(name).hidden = name !== tab;
    $(name + "-tab").setAttribute("aria-selected", name === tab);
  }
  $(tab === "texts" ? "text-form" : "picture-form").prepend($("key-box"));
}

for (const name of ["texts", "pictures"]) {
  $(name + "-tab").addEventListener("click", () => { location.hash = name; show(name); });
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey && event.key === "Enter") $($("pictures").hidden ? "text-form" : "picture-form").requestSubmit();
});
show(location.hash === "#pictures" ? "pictures" : "texts");
call("playground/names").then((names) => {
  fillNames(names);
  showPictures(names.pictures);
  return prune();
}).catch((error) => failed($("text"), error));
