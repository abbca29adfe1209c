"""Scenes of the vision benchmark: what is asked about them is what was drawn."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from benchmarks.vision import align, gaze, train
from benchmarks.vision.asking import content
from benchmarks.vision.model import PATCHES, build, config, tokenizer
from benchmarks.vision.optimizer import orthogonal
from benchmarks.vision.packing import answer_loss, head_text, mask_and_positions, pack, states
from benchmarks.vision.questions import PICTURE_TYPES, VIDEO_TYPES, questions, sample
from benchmarks.vision.scenes import _RGB, SIDE, corner, crowd, picture, place_of, video
from benchmarks.vision.tower import labels
from benchmarks.vision.tower import targets as tower_targets
from benchmarks.vision.words import COLOURS, COUNTS, KINDS, PLACES, VOCABULARY
from tokenprune.models.catalog import resolve_model


def found(pixels, frame, thing):
    """Colour and centre of what stands out in a thing's box: read from the pixels alone."""
    left, top = corner(thing, frame)
    box = pixels[top : top + thing.size, left : left + thing.size].astype(float)
    distance = {name: np.abs(box - np.array(rgb)).sum(-1) for name, rgb in _RGB.items()}
    near = {name: (values < 60).sum() for name, values in distance.items()}
    colour = max(near, key=near.get)
    rows, cols = np.nonzero(distance[colour] < 60)
    return colour, (left + (cols.min() + cols.max()) / 2, top + (rows.min() + rows.max()) / 2)


@pytest.mark.parametrize("make", [picture, crowd, video])
def test_a_scene_follows_from_its_number_alone(make):
    first, again = make("test", 3), make("test", 3)
    assert first == again
    assert all((a == b).all() for a, b in zip(first.render(), again.render(), strict=True))
    assert make("test", 4) != first and make("train", 3).things != first.things


@pytest.mark.parametrize("number", range(8))
def test_what_is_drawn_is_what_is_said(number):
    for scene in (picture("test", number), crowd("test", number), video("test", number)):
        for frame, pixels in enumerate(scene.render()):
            assert pixels.shape == (SIDE, SIDE, 3) and pixels.dtype == np.uint8
            for thing in scene.things:
                colour, (x, y) = found(pixels, frame, thing)
                assert colour == thing.colour
                assert abs(x - thing.path[frame][0]) < 8 and abs(y - thing.path[frame][1]) < 8
        if scene.mover is not None:
            moved = [len(set(thing.path)) > 1 for thing in scene.things]
            assert moved == [index == scene.mover for index in range(len(scene.things))]


def test_objects_of_a_picture_are_apart_and_cover_a_minor_part():
    for number in range(30):
        scene = picture("validation", number)
        covered = np.zeros((SIDE, SIDE), dtype=int)
        for thing in scene.things:
            left, top = corner(thing, 0)
            covered[top : top + thing.size, left : left + thing.size] += 1
        assert covered.max() == 1
        assert covered.reshape(14, 16, 14, 16).any((1, 3)).mean() < 0.45


def test_held_out_handwriting_is_never_trained_on():
    glyphs = defaultdict(set)
    for split in ("train", "validation", "test"):
        for number in range(60):
            glyphs[split] |= {thing.glyph for thing in crowd(split, number).things if thing.is_digit}
    assert len(glyphs["train"]) > 100
    assert not glyphs["train"] & (glyphs["validation"] | glyphs["test"])


def test_answers_hold_by_another_count():
    """Answers checked by looking through the scene's list in a different way than the generator does."""
    for number in range(60):
        scene = picture("train", number)
        for question in questions(scene):
            words = question.text.rstrip(" ?").split()
            if question.type == "count":
                what = " ".join(words[2:-2])
                numbers = ["zero", "one", "two", "three", "four", "five"]
                matching = [
                    thing
                    for thing in scene.things
                    if what == "objects"
                    or what == f"{thing.colour} objects"
                    or what == ("digits" if thing.is_digit else "shapes")
                    or (not thing.is_digit and what in (f"{thing.kind}s", f"{thing.kind}es"))
                ]
                assert numbers[len(matching)] == question.answer
            else:
                named = [thing for thing in scene.things if _fits(thing, words)]
                assert len(named) == 1, question
                thing = named[0]
                assert question.answer in (thing.colour, thing.kind, place_of(*thing.path[0]))


def _fits(thing, words):
    sort = "digit" if thing.is_digit else "shape"
    other = "shape" if thing.is_digit else "digit"
    if other in words:
        return False
    said = {word for word in words[2:] if word not in ("is", "the", "in", sort)}
    return said <= {thing.colour, thing.kind, place_of(*thing.path[0])}


def test_no_constant_answer_does_well():
    answers = defaultdict(Counter)
    rng = np.random.default_rng(0)
    for number in range(300):
        for question in [*sample(picture("test", number), 5, rng), *questions(video("test", number))]:
            answers[question.type][question.answer] += 1
    assert set(answers) == {*PICTURE_TYPES, *VIDEO_TYPES}
    for name, found_answers in answers.items():
        best = found_answers.most_common(1)[0][1] / found_answers.total()
        assert best < (0.45 if name == "count" else 0.35), (name, found_answers)


def test_a_sample_asks_of_every_type_and_repeats_only_when_it_must():
    scene = picture("train", 5)
    drawn = sample(scene, 10, np.random.default_rng(1))
    types = {question.type for question in questions(scene)}
    assert {question.type for question in drawn} == types
    assert len(set(drawn)) == len(drawn)


def test_every_word_is_in_the_vocabulary():
    known = set(VOCABULARY)
    for number in range(100):
        for scene in (picture("train", number), video("train", number)):
            for question in questions(scene):
                assert {*question.text.split(), question.answer} <= known


def test_a_video_is_asked_about_frame_by_frame():
    parts = content("what colour moved ?", 2)
    assert [part["type"] for part in parts] == ["text", "image", "text", "image", "text"]
    assert parts[2] == {"type": "text", "text": "frame 2"}


def test_the_training_says_how_it_is_run():
    text = train.parser().format_help()
    assert all(stage in text for stage in ("tower", "align", "reader", "pack"))


def test_a_question_says_what_it_is_about():
    for number in range(40):
        scene = picture("train", number)
        for question in questions(scene):
            things = [scene.things[index] for index in question.about]
            if question.type == "count":
                assert COUNTS[len(things)] == question.answer
                continue
            (thing,) = things
            assert question.answer in (thing.colour, thing.kind, thing.place())
        moving = video("train", number)
        assert {question.about for question in questions(moving)} == {(moving.mover,)}


def test_patches_are_aligned_with_the_words_that_are_true_of_them():
    model = build()
    align.spread(model)
    targets = align.Targets(model)
    basis = targets.directions @ targets.directions.T
    torch.testing.assert_close(basis, torch.eye(len(basis)), atol=1e-5, rtol=0)
    scene = picture("train", 2)
    patches, _ = tower_targets([scene], np.zeros(1, dtype=int))
    true = align.truths(patches)
    loss, shares = align.loss(targets, true @ targets.directions, patches)
    assert shares == {"words": 1, "background": 1, "grid": 1} and loss < 2
    thing = scene.things[0]
    x, y = thing.path[0]
    row, column = y // 16, x // 16
    said = true[0, row * 14 + column]
    words = {align.WORDS[i] for i in torch.nonzero(said[: len(align.WORDS)])[:, 0]}
    assert words == {
        thing.colour,
        thing.kind,
        thing.place(),
        "object",
        "digit" if thing.is_digit else "shape",
    }
    assert said[len(align.WORDS) :].nonzero()[:, 0].tolist() == [row, 14 + column]


def test_patches_can_be_packed_closer_and_the_question_follows_them():
    steps = torch.tensor([1.0, 0.25, 0.25, 0.25, 0.25, 1.0])
    mask, positions = mask_and_positions(steps[None], 2, 3)
    assert positions[0].tolist() == [0, 1, 1.25, 1.5, 1.75, 2, 3, 4, 5, 3, 4, 5]
    seen = mask[0, 0] == 0
    assert seen[8].tolist() == [True] * 9 + [False] * 3  # the first question's last token
    assert seen[9].tolist() == [True] * 6 + [False] * 3 + [True] + [False] * 2


def test_packing_differs_by_frame_and_leaves_the_order():
    """Steps from 0 to 1; frames of one video unlike, on average down to a twenty-fifth, and often 1."""
    from benchmarks.vision.reader import LEAST_STEP, patch_steps

    rng = np.random.default_rng(0)
    drawn = [patch_steps(rng, 4) for _ in range(200)]
    plain = [steps for steps in drawn if (steps == 1).all()]
    assert 40 <= len(plain) <= 80
    packed = [steps for steps in drawn if not (steps == 1).all()]
    shares = np.stack([steps.view(4, PATCHES).mean(1).numpy() for steps in packed])
    assert shares.min() < 2 * LEAST_STEP and shares.max() > 0.9
    assert all(steps.min() >= 0 and steps.max() <= 1 for steps in drawn)
    spread = shares.max(1) / shares.min(1).clip(0.01)
    assert 0.5 < (spread > 2).mean() < 0.9 and (spread < 1.01).any()


def test_a_video_of_which_patches_are_left_out_reads_as_one_that_never_had_them():
    """Hidden patches against a sequence without them, positions one behind the other in both."""
    from benchmarks.vision.packing import Patches

    model = build()
    scene = video("train", 3)
    packed = pack(tokenizer(), [questions(scene)], 4, 9)
    images = torch.randn(1, 4 * PATCHES, 192)
    shown = torch.rand(1, 4 * PATCHES) < 0.3
    embed, slots = model.get_input_embeddings(), packed.slots.shape[1]
    head = embed(packed.head).clone()
    patch = packed.head == model.config.image_token_index
    head[patch] = images[0]
    stays = torch.ones(len(head), dtype=torch.bool)
    stays[patch] = shown[0]
    with torch.no_grad():
        found = states(model, packed, images, Patches(torch.ones(4 * PATCHES), shown))
        for slot in range(slots):
            end = packed.ends[0, slot]
            alone = torch.cat([head[stays], embed(packed.slots[0, slot, : end + 1])])[None]
            wanted = model.model.language_model(inputs_embeds=alone).last_hidden_state[0, -1]
            torch.testing.assert_close(found[0, slot, end], wanted, atol=1e-4, rtol=1e-4)


def test_only_patches_that_show_nothing_new_are_left_out():
    """The first frame stays whole; of later ones what the moving thing covers or has just left always stays."""
    from benchmarks.vision.reader import sparse
    from benchmarks.vision.tower import labels

    scenes = [video("train", number) for number in range(12)]
    shown = sparse(scenes, np.random.default_rng(0)).shown.view(12, 4, PATCHES).numpy()
    assert shown[:, 0].all()
    for scene, seen in zip(scenes, shown, strict=True):
        moving = [scene.things[scene.mover]]
        covers = np.stack([labels(moving, frame)[:, 1] > 0 for frame in range(4)])
        assert seen[1:][covers[1:] | covers[:-1]].all()
    left = shown[:, 1:].mean((1, 2))
    assert left.min() < 0.12 and left.max() > 0.5


def test_where_to_look_is_taught_on_the_attention_that_the_layer_computes():
    made = config()
    made._attn_implementation = "eager"
    torch.manual_seed(1)
    model = LlavaForConditionalGeneration(made)
    scenes = [picture("train", number) for number in range(2)]
    asked = [sample(scene, 5, np.random.default_rng(number)) for number, scene in enumerate(scenes)]
    packed = pack(tokenizer(), asked, 1, 9)
    watcher, attention = gaze.Gaze(model), []
    layer = model.model.language_model.layers[gaze.LAYER].self_attn
    hook = layer.register_forward_hook(lambda module, args, out: attention.append(out[1]))
    with watcher.watching(), torch.no_grad():
        answer_loss(model, packed, torch.randn(2, PATCHES, 192))
        wanted = gaze.wanted(scenes, asked, packed, made.image_token_index)
        loss = watcher.loss(packed, wanted)
    hook.remove()
    head, terms = len(packed.head), []
    for b, questions_ in enumerate(asked):
        for k, question in enumerate(questions_):
            row = attention[0][b, :2, head + 9 * k + packed.ends[b, k], :head]
            counts = 2 if question.type == "count" else 1
            assert (wanted[b, k].sum(-1) > 0).sum() == counts
            terms += [-(wanted[b, k, h] * row[h].log()).sum() for h in range(counts)]
            if counts == 2:  # the first token counts twice, every thing once
                assert wanted[b, k, 1, 0] == pytest.approx(2 / (2 + len(question.about)))
    torch.testing.assert_close(loss, torch.stack(terms).mean(), atol=1e-4, rtol=1e-4)


def test_in_a_video_the_heads_are_taught_its_first_and_its_last_frame():
    scene = video("train", 3)
    packed = pack(tokenizer(), [questions(scene)], 4, 9)
    image = config().image_token_index
    wanted = gaze.wanted([scene], [questions(scene)], packed, image)[0]
    frames = wanted[:, :, packed.head == image].view(-1, 2, 4, PATCHES)
    torch.testing.assert_close(frames.sum(-1), torch.eye(4)[[0, 3]].expand(len(frames), 2, 4))
    for head, frame in ((0, 0), (1, -1)):
        x, y = scene.things[scene.mover].path[frame]
        assert (frames[:, head, frame, y // 16 * 14 + x // 16] > 0).all()


def test_questions_packed_together_are_read_as_if_alone():
    """The packed sequence against each question's own prompt, with weights that let attention matter."""
    model = build()
    with torch.no_grad():
        for weight in model.model.language_model.parameters():
            weight *= 3 if weight.ndim == 2 else 1
    asked = [sample(picture("train", number), 4, np.random.default_rng(number)) for number in range(2)]
    packed = pack(tokenizer(), asked, 1, 9)
    images = torch.randn(2, PATCHES, 192)
    embed = model.get_input_embeddings()
    with torch.no_grad():
        together = states(model, packed, images)
        for scene in range(2):
            head = embed(packed.head).clone()
            head[packed.head == model.config.image_token_index] = images[scene]
            for slot in range(4):
                end = packed.ends[scene, slot]
                alone = torch.cat([head, embed(packed.slots[scene, slot, : end + 1])])[None]
                wanted = model.model.language_model(inputs_embeds=alone).last_hidden_state[0, -1]
                torch.testing.assert_close(together[scene, slot, end], wanted, atol=1e-4, rtol=1e-4)


def test_the_packed_beginning_is_what_the_chat_template_writes():
    for frames in (1, 4):
        text = tokenizer().apply_chat_template(
            [{"role": "user", "content": content("what colour moved ?", frames)}],
            tokenize=False,
            add_generation_prompt=True,
        )
        assert text == f"{head_text(frames)} what colour moved ? assistant"


def test_the_shipped_checkpoint_has_the_shapes_that_are_trained():
    stored = LlavaConfig.from_pretrained(resolve_model("llava-mini"))
    made = config()
    for part, names in {
        "vision_config": ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        "text_config": ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    }.items():
        for name in names:
            assert getattr(getattr(stored, part), name) == getattr(getattr(made, part), name), (part, name)
    assert stored.vision_feature_layer == made.vision_feature_layer


def test_patches_are_labelled_with_what_covers_them():
    scene = crowd("train", 1)
    found = labels(scene.things, 0).reshape(14, 14, 6)
    assert found[..., 5].sum() == len(scene.things)
    for thing in scene.things:
        x, y = thing.path[0]
        colour, kind, place, right, down, centre = found[y // 16, x // 16]
        assert COLOURS[int(colour) - 1] == thing.colour and KINDS[int(kind) - 1] == thing.kind
        assert PLACES[int(place)] == thing.place() and centre
        assert abs(right) <= 0.5 and abs(down) <= 0.5


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 6, 20), (2, 20, 6)])
def test_orthogonal_updates_have_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
    assert values.min() > 0.5 and values.max() < 1.3


def test_modules_of_atp_for_other_shares_are_measured_beside_the_shipped_one(tmp_path):
    """Each at the share that it has learned."""
    from types import SimpleNamespace

    from benchmarks.vision.asking import MODEL, atp_modules
    from tokenprune.models.catalog import model_path
    from tokenprune.vision.atp import ATPModule

    shipped = ATPModule.load(model_path(MODEL) / "atp.safetensors")
    half = tmp_path / "half.safetensors"
    ATPModule(shipped.config).save(half)
    notes = []
    options = SimpleNamespace(atp=[MODEL, str(half), str(tmp_path / "none.safetensors")])
    found = atp_modules(SimpleNamespace(options=options, note=notes.append))
    assert [method.name for method, _ in found] == ["atp-llava", "atp-llava half"]
    assert len({version for _, version in found}) == 2
    modules = [method.reducers(0.0)[0].module for method, _ in found]
    bias = [next(iter(module.heads.values()))[-1].bias.tolist() for module in modules]
    assert bias[0] == next(iter(shipped.heads.values()))[-1].bias.tolist() and bias[1] == [-1.0, 0.0]
    (note,) = notes
    assert "none.safetensors" in note
