"""Text for the small model (see make_tiny_model.py): sentences in our own words, and the two tokenizers trained on them."""

import collections
import io
import itertools
import random
import re
import string

import sentencepiece

START, END = "<|startoftext|>", "<|endoftext|>"
# Characters that the T5 tokenizer must know, so that an English prompt has no unknown tokens.
REQUIRED = string.ascii_letters + string.digits + "!\"#$%&'()*+,-./:;=?@"

SUBJECTS = """teapot, robot, mug, lantern, backpack, clock, boot, rabbit, fox, kettle, toy train, violin, umbrella, vase, owl,
teddy bear, bicycle, candle, chair, basket, kite, puppet, sailing boat, cat, dog, penguin, camera, hat, pair of glasses, bowl,
bottle, can, sneaker, figurine, box, flower, cake, drum, book, key, dinosaur, elephant, guitar, helmet, jacket, lamp, necklace,
mushroom, horse, turtle, squirrel, dragon, compass, hourglass, telescope, typewriter, watering can, pumpkin, cactus, wizard,
astronaut, knight, princess, gardener, painter""".replace("\n", " ").split(", ")
MATERIALS = """wooden ceramic glass copper woollen paper tin leather plastic stone silver felt rubber golden striped
shiny fluffy ancient tiny huge broken folded carved knitted round heavy friendly sleepy curious magical transparent""".split()
COLOURS = "red blue green yellow orange purple white black grey pink brown turquoise".split()
SCENES = """on a beach at sunrise, in a snowy forest, on the kitchen table, under a street lamp in the rain, beside a quiet river,
in a busy market, on top of a mountain, inside an old library, in front of a brick wall, on a wooden floor, in the garden,
on a window sill, in a small cafe, at the edge of a lake, floating in space, on a stack of books, between tall grass,
in the middle of a city square, on a train, next to the fireplace, in a field of flowers, on the moon, under the cherry trees,
behind a waterfall, at the railway station, in a chemistry laboratory, beneath the northern lights, along a dusty road, among
autumn leaves, over the rooftops at night, within a crystal cave, between two skyscrapers, near the lighthouse, in the desert,
on a velvet cushion, at a birthday party, aboard a pirate ship, across a wooden bridge""".replace("\n", " ").split(", ")
STYLES = """a photo of, a drawing of, a close view of, a watercolour painting of, a picture of, a poster with, a studio shot of,
a sketch of""".replace("\n", " ").split(", ")
LIGHTS = "soft light, warm evening light, bright colours, many details, a plain background, long shadows, fog".split(", ")
DEEDS = "stands, lies, sleeps, waits, is placed, rests, hangs, shines".split(", ")


def sentences(seed, count=4000):
    """Prompts of the kind people give, from the lists above."""
    draw = random.Random(seed)
    # Only `random()` is used: unlike `choice`, what it gives for a seed is promised not to change with Python's version.
    pick = lambda items: items[int(draw.random() * len(items))]
    article = lambda noun: f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
    thing = lambda: pick([f"{pick(MATERIALS)} {pick(SUBJECTS)}", f"{pick(COLOURS)} {pick(SUBJECTS)}",
                          f"{pick(COLOURS)} {pick(MATERIALS)} {pick(SUBJECTS)}", pick(SUBJECTS)])
    forms = [
        lambda: f"{article(thing()).capitalize()} {pick(SCENES)}.",
        lambda: f"{pick(STYLES).capitalize()} {article(thing())} {pick(SCENES)}, {pick(LIGHTS)}",
        lambda: f"The {thing()} {pick(DEEDS)} {pick(SCENES)}, with {pick(LIGHTS)}.",
        lambda: f"{article(thing()).capitalize()} and {article(thing())} {pick(SCENES)}.",
        lambda: f"The {thing()} is next to the {thing()}; it's {pick(COLOURS)}, isn't it?",
        lambda: f"{2 + int(draw.random() * 98)} {pick(COLOURS)} {pick(SUBJECTS)}s {pick(SCENES)}, {pick(STYLES)} the year {1900 + int(draw.random() * 130)}",
        lambda: f"A {pick(SUBJECTS)} with the word \"{pick(MATERIALS).upper()}\" on it, {pick(SCENES)}",
    ]
    return [pick(forms)() for _ in range(count)]


# Tokenizers


def spiece_model(corpus, size, words=()):
    """A SentencePiece unigram model with T5's settings, in which `words` are one piece each."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=model, model_type="unigram", vocab_size=size,
        normalization_rule_name="nmt_nfkc", add_dummy_prefix=True, character_coverage=1.0, pad_id=0, eos_id=1, unk_id=2,
        bos_id=-1, required_chars=REQUIRED, pad_piece="<pad>", eos_piece="</s>", unk_piece="<unk>", num_threads=1, minloglevel=2,
        user_defined_symbols=[f"\u2581{word}" for word in words],
    )  # fmt: skip
    return model.getvalue()


def byte_letters():
    """The letter that stands for each byte in byte-level BPE: itself where it is printable, else one from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(0x100 + i) for i, b in enumerate(others)}


def clip_bpe(corpus, count_of_merges):
    """CLIP's vocabulary and merges: byte-level BPE on lower-cased words, the last letter of a word ending in `</w>`."""
    letters = byte_letters()
    split = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+")
    counts = collections.Counter(word for line in corpus for word in split.findall(line.lower()))
    words = []
    for word, count in sorted(counts.items()):
        symbols = [letters[b] for b in word.encode()]
        symbols[-1] += "</w>"
        words.append((symbols, count))
    merges = []
    while len(merges) < count_of_merges:
        pairs = collections.Counter()
        for symbols, count in words:
            for pair in itertools.pairwise(symbols):
                pairs[pair] += count
        # The most frequent pair; among equals the first in the alphabet, so that the result does not hang on any order.
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for symbols, _ in words:
            i = 0
            while i + 1 < len(symbols):
                if (symbols[i], symbols[i + 1]) == best:
                    symbols[i : i + 2] = ["".join(best)]
                i += 1
    singles = list(letters.values())
    tokens = [*singles, *(s + "</w>" for s in singles), *("".join(m) for m in merges), START, END]
    if len(set(tokens)) != len(tokens):
        raise SystemExit("two merges give the same token; change the number of merges or the sentences")
    return {token: i for i, token in enumerate(tokens)}, merges
