"""LLaVA-OneVision in plain transformers: pictures of several tiles, videos, and both in one batch."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_vlm import GRID, IMAGE, PATCHES, VIDEO, left_padded, pictures, plain, tiny_onevision  # noqa: E402

from tokenprune.errors import ConfigError, VisionError  # noqa: E402
from tokenprune.vision.hf import visual_pruning  # noqa: E402
from tokenprune.vision.methods import vision_method  # noqa: E402
from tokenprune.vision.tokens import rows_of  # noqa: E402

FRAMES, POOLED = 3, (GRID // 2) ** 2
SIZES = ((32, 64), (30, 40), (64, 32), (32, 32))  # height and width of pictures as they came


@pytest.fixture(scope="module")
def model():
    return tiny_onevision()


def text(count, seed):
    return torch.randint(10, 97, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def prompt(*runs, seed=0):
    """Token ids: text around runs of (placeholder, count)."""
    out = [1, *text(3, seed)]
    for number, (holder, count) in enumerate(runs):
        out += [holder] * count + text(2, seed + number + 1)
    return out + text(4 + seed, seed + 9)


def tiles(sizes, seed=0):
    """Pixels of pictures [n, 3 tiles, 3, 32, 32], as the processor pads them, and their sizes."""
    pixels = pictures(3 * len(sizes), seed).unflatten(0, (len(sizes), 3))
    return {"pixel_values": pixels, "image_sizes": torch.tensor(sizes)}


def videos(count, seed=5):
    return pictures(count * FRAMES, seed).unflatten(0, (count, FRAMES))


def slow_views(model, given, tiles_of):
    """Views of pictures put together patch by patch: for each picture the features, attention and keys of the
    whole, then of its tiles, as {(view, row, col): (features [d], received, keys [k])}, in reading order."""
    inner = model.model
    out, at = [], 0
    for (high, wide), size, pixels in zip(
        tiles_of, given["image_sizes"].tolist(), given["pixel_values"], strict=True
    ):
        crops = [slow_tile(inner, tile[None]) for tile in pixels[: 1 + high * wide]]
        at += len(crops)
        seen = {(0, n // GRID, n % GRID): one for n, one in enumerate(crops[0])}
        rows, cols = high * GRID, wide * GRID
        top = left = 0
        if high and size[1] / size[0] > cols / rows:
            top = (rows - int(round(size[0] * cols / size[1], 7))) // 2
        elif high:
            left = (cols - int(round(size[1] * rows / size[0], 7))) // 2
        for row in range(top, rows - top):
            for col in range(left, cols - left):
                tile = 1 + row // GRID * wide + col // GRID
                seen[1, row - top, col - left] = crops[tile][row % GRID * GRID + col % GRID]
        out.append(seen)
    return out


@torch.no_grad()
def slow_tile(inner, pixels):
    """Of each patch of a tile [1, 3, 32, 32] its features, the attention it gets in the last layer, its keys."""
    tower = inner.vision_tower
    states = tower(pixels, output_hidden_states=True).hidden_states
    features = inner.multi_modal_projector(states[-1])[0]
    last = tower.encoder.layers[-1]
    hidden = last.layer_norm1(states[-2])[0]
    own = last.self_attn
    query, keys = own.q_proj(hidden), own.k_proj(hidden)
    size = query.shape[1] // own.num_heads
    received = torch.zeros(len(hidden))
    for head in range(own.num_heads):
        part = slice(head * size, (head + 1) * size)
        for asking in query[:, part]:
            received += torch.softmax(keys[:, part] @ asking / size**0.5, 0)
    return list(zip(features, received / own.num_heads / len(hidden), keys, strict=True))


def read_of(seen, left, newline):
    """What a model reads in the places of a picture of `VisualTokens` ``seen``, None where nothing is left.

    Behind each row of its tiles, or behind all of it if it has none, stands a newline, which stays while
    anything of its line does.
    """
    rows, out, any_of_line = staying(seen.features, left), [], False
    places = list(zip(seen.frame.tolist(), seen.row.tolist(), strict=True))
    for n, (place, row) in enumerate(zip(places, rows, strict=True)):
        out.append(row)
        any_of_line |= row is not None
        last = n + 1 == len(places)
        tiled = len(seen.views) > 1
        if last or (tiled and place[0] == 1 and places[n + 1] != place):
            out.append(newline if any_of_line else None)
            any_of_line = False
        elif tiled and place[0] == 0 and places[n + 1][0] == 1:
            any_of_line = False
    return out


@torch.no_grad()
def packed(model, given, several=None):
    """What transformers reads of pictures, a list of [n, d]."""
    return model.get_image_features(**given, batch_num_images=several, return_dict=True).pooler_output


def batch_of(*rows):
    ids, mask = left_padded(rows)
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def by_hand(model, ids, values, count):
    """Greedy tokens behind embeddings put together one by one: ``values`` in the places of placeholders,
    None where the placeholder goes."""
    embed, values = model.get_input_embeddings(), iter(values)
    rows = [next(values) if token in (IMAGE, VIDEO) else embed(torch.tensor(token)) for token in ids]
    hidden, out = torch.stack([row for row in rows if row is not None])[None], []
    for _ in range(count):
        out.append(int(model(inputs_embeds=hidden).logits[0, -1].argmax()))
        hidden = torch.cat([hidden, embed(torch.tensor([[out[-1]]]))], 1)
    return out


def staying(features, left):
    """Rows at the places where something stays, None elsewhere."""
    out = [None] * len(features)
    for at, row in zip(left.keep.tolist(), left.features, strict=True):
        out[at] = row
    return out


@pytest.fixture(scope="module")
def images(model):
    """A batch of two: one picture of tiles, and three that come as they are, with their numbers of tokens."""
    several = torch.tensor([1, 3])
    given = tiles(SIZES)
    sizes = [len(one) for one in packed(model, given, several)]
    assert sizes == [PATCHES + 2 * PATCHES + GRID, *[PATCHES + 1] * 3]  # base, tiles and ends of lines
    rows = prompt((IMAGE, sizes[0])), prompt(*((IMAGE, size) for size in sizes[1:]), seed=3)
    return {**batch_of(*rows), **given, "batch_num_images": several}


@pytest.fixture(scope="module")
def one_each(model):
    """A batch of two, each with one picture, of other sizes and tiles: lines are cut where these are padded."""
    given = tiles(SIZES[1:3], seed=2)
    sizes = [len(one) for one in packed(model, given)]
    assert len(set(sizes)) == 2
    return {**batch_of(*(prompt((IMAGE, size), seed=n) for n, size in enumerate(sizes))), **given}


@pytest.fixture(scope="module")
def mixed(model):
    """A batch of two: a picture between videos, and a video between pictures."""
    given, several = tiles([(32, 32)] * 3, seed=4), torch.tensor([1, 2])
    first, *others = [(IMAGE, len(one)) for one in packed(model, given, several)]
    video = (VIDEO, FRAMES * POOLED + 1)
    rows = prompt(video, first, video), prompt(others[0], video, others[1], seed=2)
    return {**batch_of(*rows), **given, "batch_num_images": several, "pixel_values_videos": videos(3)}


@pytest.mark.parametrize("name", ["images", "one_each", "mixed"])
def test_keeping_all_equals_transformers(model, request, name):
    batch = request.getfixturevalue(name)
    expected = model.generate(**batch, **plain())
    for method, keep in (("none", None), ("random", 1.0), ("fopru", 1000), ("fastv", 1.0)):
        with visual_pruning(model, method, keep):
            assert torch.equal(model.generate(**batch, **plain()), expected)
    with torch.no_grad():
        wanted = model(**batch).logits
        with visual_pruning(model, "none"):
            got = model(**batch).logits
    assert (got - wanted)[batch["attention_mask"].bool()].abs().max() < 1e-4


@pytest.mark.parametrize(
    ("method", "keep"),
    [
        ("fopru", 6), ("fopru-row", 9), ("visionzip", 0.25), ("prumerge", 0.25), ("prumerge", None),
        ("uniform", 7), ("holitom", 6), ("divprune", 1), ("random", 0.5), ("evs", 3),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["images", "one_each"])
def test_pictures_of_different_sizes_keep_what_is_asked(model, request, name, method, keep):
    """Newlines come on top of the budget: those of lines of which something is left."""
    batch = request.getfixturevalue(name)
    how = vision_method("fopru", strategy="row") if method == "fopru-row" else method
    with visual_pruning(model, how, keep) as pruning:
        got = model.generate(**batch, **plain(8))
    sizes = [len(one) for one in pruning.seen]
    if method == "evs":  # of a picture everything is new
        assert [len(one) for one in pruning.left] == sizes
    elif keep is not None:
        assert [len(one) for one in pruning.left] == [rows_of(keep, size) for size in sizes]
    newline = model.model.image_newline.detach()
    values = [
        v for seen, left in zip(pruning.seen, pruning.left, strict=True) for v in read_of(seen, left, newline)
    ]
    for row, ids in enumerate(batch["input_ids"].tolist()):
        own = [token for token, there in zip(ids, batch["attention_mask"][row], strict=True) if there]
        count = sum(token == IMAGE for token in own)
        assert got[row, -8:].tolist() == by_hand(model, own, values[:count], 8)
        values = values[count:]
    assert not values


def test_pictures_have_grid_attention_and_keys_of_their_views(model, images, one_each):
    """As they come patch by patch: tiles side by side, without the rows and columns that are padding."""
    for batch, tiles_of in ((images, ((1, 2), (0, 0), (0, 0), (0, 0))), (one_each, ((1, 2), (2, 1)))):
        with visual_pruning(model, "none") as pruning:
            model.generate(**batch, **plain(1))
        expected = slow_views(model, batch, tiles_of)
        for mine, slow, (high, _) in zip(pruning.seen, expected, tiles_of, strict=True):
            places = torch.stack([mine.frame, mine.row, mine.col], 1).tolist()
            assert [tuple(place) for place in places] == list(slow)
            sizes = tuple(
                (max(r for v, r, _ in slow if v == view) + 1, max(c for v, _, c in slow if v == view) + 1)
                for view in range(2 if high else 1)
            )
            assert mine.views == (sizes if high else ())
            assert mine.grid == (len(sizes), max(r for r, _ in sizes), max(c for _, c in sizes))
            assert mine.heads == 2 and mine.cls is None and mine.moments == 1
            for n, (features, received, keys) in enumerate(slow.values()):
                assert (mine.features[n] - features).abs().max() < 1e-4
                assert float(mine.received[n] - received) == pytest.approx(0, abs=1e-6)
                assert (mine.keys[n] - keys).abs().max() < 1e-4
    assert len(expected[0]) < PATCHES + 2 * PATCHES  # something was padding


def test_large_grids_are_made_smaller_with_their_attention():
    """More patches than ``anyres_max_1`` allows: bilinear interpolation to half the size, the mean of 2 x 2."""
    model = tiny_onevision()
    model.config.image_grid_pinpoints = [[64, 64]]
    model.config.vision_aspect_ratio = "anyres_max_1"
    given = {"pixel_values": pictures(5)[None], "image_sizes": torch.tensor([[64, 64]])}
    size = len(packed(model, given)[0])
    assert size == PATCHES + GRID * (GRID + 1)
    batch = {**batch_of(prompt((IMAGE, size))), **given}
    expected = model.generate(**batch, **plain())
    with visual_pruning(model, "fopru", 1.0) as pruning:
        assert torch.equal(model.generate(**batch, **plain()), expected)
    (mine,) = pruning.seen
    assert mine.views == ((GRID, GRID), (GRID, GRID)) and mine.grid == (2, GRID, GRID)
    (slow,) = slow_views(model, given, [(2, 2)])
    for n in range(PATCHES):
        row, col = n // GRID * 2, n % GRID * 2
        four = [slow[1, row + y, col + x] for y in (0, 1) for x in (0, 1)]
        for field, values in zip(("features", "received", "keys"), zip(*four, strict=True), strict=True):
            got = getattr(mine, field)[PATCHES + n]
            assert (got - torch.stack(values).mean(0)).abs().max() < 1e-4


def test_tiles_as_one_list_are_the_same(model, one_each):
    """The model takes tiles of all pictures behind one another, without filling up, too."""
    listed = one_each | {"pixel_values": one_each["pixel_values"].flatten(0, 1)}
    with visual_pruning(model, "fopru", 5):
        expected = model.generate(**one_each, **plain())
        assert torch.equal(model.generate(**listed, **plain()), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_sizes": None}, "need image_sizes"),
        ({"pixel_values": pictures(5)}, r"have \[3, 3\] tiles"),
        ({"pixel_values": pictures(4).unflatten(0, (2, 2))}, r"have \[3, 3\] tiles"),
        ({"pixel_values": pictures(1)[0]}, "must be"),
        ({"batch_num_images": torch.tensor([3])}, "counts 3 pictures"),
    ],
)
def test_pictures_that_do_not_fit(model, one_each, change, message):
    with visual_pruning(model, "random", 2), pytest.raises(VisionError, match=message):
        model.generate(**(one_each | change), **plain(1))


@pytest.mark.parametrize(
    ("method", "keep"), [("fopru", 4), ("visionzip", 5), ("holitom", 0.5), ("evs", 0.5), ("divprune", 1)]
)
def test_videos_keep_what_is_asked_and_their_end(model, mixed, method, keep):
    """Methods see frames with their grid, attention and keys; the row behind the frames always stays."""
    with visual_pruning(model, method, keep) as pruning:
        got = model.generate(**mixed, **plain(8))
    of_videos = [n for n, one in enumerate(pruning.seen) if one.grid[0] == FRAMES]
    assert [pruning.seen[n].grid for n in of_videos] == [(FRAMES, GRID // 2, GRID // 2)] * 3
    asked = keep if isinstance(keep, int) else int(keep * FRAMES * POOLED)
    assert [len(pruning.left[n]) for n in of_videos] == [asked] * 3
    with torch.no_grad():
        whole = model.get_video_features(mixed["pixel_values_videos"], return_dict=True).pooler_output
    read = {IMAGE: [], VIDEO: []}
    for n, one in enumerate(pruning.seen):
        if n in of_videos:
            features = whole[of_videos.index(n)]
            assert (features[:-1] - one.features).abs().max() < 1e-5
            read[VIDEO] += [*staying(one.features, pruning.left[n]), features[-1]]
        else:
            read[IMAGE] += read_of(one, pruning.left[n], model.model.image_newline.detach())
    for row, ids in enumerate(mixed["input_ids"].tolist()):
        own = [token for token, there in zip(ids, mixed["attention_mask"][row], strict=True) if there]
        values = [read[token].pop(0) for token in own if token in read]
        assert got[row, -8:].tolist() == by_hand(model, own, values, 8)
    assert not read[IMAGE] and not read[VIDEO]


def test_attention_and_keys_of_videos_are_pooled_as_the_features_are(model, mixed):
    """Bilinear interpolation to half the size is the mean of two by two."""
    from tokenprune.vision.tower import read_features

    with visual_pruning(model, "none") as pruning:
        model.generate(**mixed, **plain(1))
    inner, pixels = model.model, mixed["pixel_values_videos"][1]
    with torch.no_grad():
        found = read_features(inner.vision_tower, inner.multi_modal_projector, model.config, pixels)
    video = pruning.seen[-2]
    assert video.heads == found.heads
    for values, mine in ((found.received[..., None], video.received[:, None]), (found.keys, video.keys)):
        squares = values.view(FRAMES, GRID // 2, 2, GRID // 2, 2, -1).mean((2, 4)).flatten(0, 2)
        assert (squares - mine).abs().max() < 1e-6


def test_inside_the_language_model(model, mixed):
    """Half of what stands for pictures leaves behind the second layer, ends of videos counted."""
    with visual_pruning(model, "fastv", 0.5) as pruning:
        model.generate(**mixed, **plain(4))
    sizes = mixed["attention_mask"].sum(1).tolist()
    ids = mixed["input_ids"]
    visual = ((ids == IMAGE) | (ids == VIDEO)).sum(1).tolist()
    after = [size - seen + seen // 2 for size, seen in zip(sizes, visual, strict=True)]
    assert pruning.layers == [[a] * 2 + [b] * 3 for a, b in zip(sizes, after, strict=True)]


def test_labels_shrink_with_videos(model, mixed):
    labels = mixed["input_ids"].masked_fill(mixed["attention_mask"] == 0, -100)
    with torch.no_grad():
        expected = float(model(**mixed, labels=labels).loss)
        with visual_pruning(model, "none"):
            assert float(model(**mixed, labels=labels).loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values_videos": videos(4)}, "for 6 of 7 images and videos"),
        ({"pixel_values_videos": videos(2)}, "placeholders"),
        ({"pixel_values_videos": videos(3)[0]}, r"must be \[videos, frames"),
    ],
)
def test_videos_that_do_not_fit(model, mixed, change, message):
    with visual_pruning(model, "random", 2), pytest.raises(VisionError, match=message):
        model.generate(**(mixed | change), **plain(1))


def test_placeholders_of_a_video_stand_together(model):
    count = FRAMES * POOLED + 1
    ids = prompt((VIDEO, count - 3), (IMAGE, PATCHES + GRID * (GRID + 1)), (VIDEO, 3))
    given = {**batch_of(ids), **tiles([(32, 32)])}
    with visual_pruning(model, "none"), pytest.raises(VisionError, match="not those of whole pictures"):
        model.generate(**given, pixel_values_videos=videos(1), **plain(1))


def test_llava_takes_frames_as_pictures(batch):
    from tiny_vlm import tiny_llava

    llava = tiny_llava()
    with visual_pruning(llava, "none"), pytest.raises(ConfigError, match="give the frames"):
        llava.generate(input_ids=batch["input_ids"], pixel_values_videos=videos(1))
