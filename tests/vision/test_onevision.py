"""LLaVA-OneVision in plain transformers: pictures of several tiles, videos, and both in one batch."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_vlm import GRID, IMAGE, PATCHES, VIDEO, left_padded, pictures, plain, tiny_onevision  # noqa: E402

from tokenprune.errors import ConfigError, VisionError  # noqa: E402
from tokenprune.vision.hf import visual_pruning  # noqa: E402

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
    for method, keep in (("none", None), ("random", 1.0), ("fastv", 1.0)):
        with visual_pruning(model, method, keep):
            assert torch.equal(model.generate(**batch, **plain()), expected)
    with torch.no_grad():
        wanted = model(**batch).logits
        with visual_pruning(model, "none"):
            got = model(**batch).logits
    assert (got - wanted)[batch["attention_mask"].bool()].abs().max() < 1e-4


@pytest.mark.parametrize("name", ["images", "one_each"])
def test_pictures_of_different_sizes_keep_what_is_asked(model, request, name):
    batch = request.getfixturevalue(name)
    with visual_pruning(model, "divprune", 6) as pruning:
        got = model.generate(**batch, **plain(8))
    assert [len(one) for one in pruning.left] == [6] * len(pruning.seen)
    with visual_pruning(model, "divprune", 0.25) as shares:
        model.generate(**batch, **plain(1))
    assert [len(one) for one in shares.left] == [len(one) // 4 for one in shares.seen]
    given = {key: batch[key] for key in ("pixel_values", "image_sizes")}
    features = packed(model, given, batch.get("batch_num_images"))
    assert all(torch.equal(a, b.features) for a, b in zip(features, pruning.seen, strict=True))
    values = [v for one, left in zip(features, pruning.left, strict=True) for v in staying(one, left)]
    for row, ids in enumerate(batch["input_ids"].tolist()):
        own = [token for token, there in zip(ids, batch["attention_mask"][row], strict=True) if there]
        count = sum(token == IMAGE for token in own)
        assert got[row, -8:].tolist() == by_hand(model, own, values[:count], 8)
        values = values[count:]
    assert not values


@pytest.mark.parametrize(
    ("method", "keep"), [("fopru", 4), ("visionzip", 5), ("holitom", 0.5), ("evs", 0.5), ("divprune", 1)]
)
def test_videos_keep_what_is_asked_and_their_end(model, mixed, method, keep):
    """Methods see frames with their grid, attention and keys; the row behind the frames always stays."""
    if method not in ("divprune", "evs"):  # the others read attention, which pictures have none of here
        one = (VIDEO, FRAMES * POOLED + 1)
        rows = prompt(one), prompt(one, one, seed=2)
        mixed = {**batch_of(*rows), "pixel_values_videos": mixed["pixel_values_videos"]}
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
            read[IMAGE] += staying(one.features, pruning.left[n])
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
    ids = prompt((VIDEO, count - 3), (IMAGE, PATCHES + 1), (VIDEO, 3))
    given = {**batch_of(ids), **tiles([(32, 32)]), "batch_num_images": torch.tensor([2])}
    with visual_pruning(model, "none"), pytest.raises(VisionError, match="not those of whole pictures"):
        model.generate(**given, pixel_values_videos=videos(1), **plain(1))


def test_llava_takes_frames_as_pictures(batch):
    from tiny_vlm import tiny_llava

    llava = tiny_llava()
    with visual_pruning(llava, "none"), pytest.raises(ConfigError, match="give the frames"):
        llava.generate(input_ids=batch["input_ids"], pixel_values_videos=videos(1))
