(() => {
  const rows = [...document.querySelectorAll("#examples tbody tr")];
  const choices = [...document.querySelectorAll("select[data-by]")];
  const words = document.querySelector("#words");
  const shown = document.querySelector("#shown");
  const filter = () => {
    let count = 0;
    for (const row of rows) {
      const chosen = choices.every((c) => !c.value || row.dataset[c.dataset.by] === c.value);
      const there = !words.value || row.textContent.toLowerCase().includes(words.value.toLowerCase());
      row.hidden = !(chosen && there);
      if (!row.hidden) count += 1;
    }
    shown.textContent = `${count} of ${rows.length} shown`;
  };
  if (rows.length) {
    document.querySelector("#filters").hidden = false;
    choices.forEach((choice) => choice.addEventListener("change", filter));
    words.addEventListener("input", filter);
    filter();
  }
})();
