"""Sentences from a small grammar: lower-case words of a few hundred, all English phones, one comma at most."""


def _words(text: str) -> list[str]:
    return text.split()


PEOPLE = _words("""aunt baker boy captain child cousin doctor driver farmer fisher girl guard judge king lady lawyer
mother neighbour nurse painter pilot poet queen sailor shepherd singer teacher thief uncle waiter weaver witch""")
THINGS = _words("""apple basket bell boat book bottle bridge button cage candle chair chart clock cloth coin cup
drum egg engine feather fence flag flute glove hammer jar jewel jug kettle key kite ladder lamp letter map measure
mirror mushroom needle oar orange paper pearl pen picture pillow pipe plough purse ring rope saddle shell shield
shoe shovel spoon stone string table thread ticket toy treasure trumpet vase vision wheel whistle yarn zipper""")
ANIMALS = _words("""badger bear bird cat crow deer donkey duck eagle fish fox frog goat goose hedgehog horse jackal
lamb lion mole monkey mouse otter owl ox pigeon rabbit sheep snail swan thrush tiger toad whale wolf zebra""")
PLACES = _words("""bay beach castle cave church cliff field forest garden harbour hill house island kitchen lake
market meadow mill mountain museum orchard palace path river road school shore square station street tower town
valley village yard zoo""")
ADJECTIVES = _words("""ancient blue bright broken brown careful cheap clever cold curious damp dark deep dusty early
easy faithful foolish gentle golden green happy heavy huge hungry joyful large lazy little lonely loud narrow new
noisy old pale plain proud purple quick quiet red rich rough round shallow sharp shy silver sleepy slow small smooth
soft sour strange strong sweet tall thick thin tiny usual warm wet white wide wild wise yellow young""")
VERBS = _words("""admired borrowed bought broke brought caught chased chose cleaned counted covered dropped found
followed forgot gave guarded heard held hid kept kicked left lifted lost loved measured moved noticed offered opened
painted pulled pushed reached remembered saved saw shared showed sold stole touched took treasured used wanted
washed watched""")
MOVES = _words("""appeared arrived climbed crawled danced drifted escaped flew gathered hurried jumped laughed
listened marched paused played rested returned rose shouted sang slept sneezed stayed swam travelled trembled
vanished waited walked wandered yawned""")
ADVERBS = _words("""again already always badly bravely calmly quickly gladly gently hardly here loudly nearly never
often once quietly rarely slowly softly soon suddenly there together twice usually yesterday""")
PREPOSITIONS = _words("""above across against along behind below beside beyond by from inside near outside over past
under""")
NUMBERS = _words("two three four five six seven eight nine ten eleven twelve thirteen twenty thirty forty fifty")
POINTERS = _words("this that each every another")
WHEN = _words("after although because before since unless until when while")
QUESTIONS = _words("how where why when")


def sentence(rng, min_words: int = 5, max_words: int = 14) -> str:
    """Return one sentence; a comma stays inside, the full stop does not. ``rng`` is a ``numpy.random.Generator``."""
    while True:
        text = " ".join(_FORMS[rng.integers(len(_FORMS))](rng).split()).replace(" ,", ",")
        if min_words <= len(text.split()) <= max_words:
            return text


def vocabulary() -> set[str]:
    """Return every content word the grammar can say."""
    lists = (PEOPLE, THINGS, ANIMALS, PLACES, ADJECTIVES, VERBS, MOVES, ADVERBS, PREPOSITIONS, NUMBERS, WHEN, QUESTIONS)
    return {word for words in lists for word in words}


def _one(rng, words):
    return words[rng.integers(len(words))]


def _noun_phrase(rng):
    noun = _one(rng, [PEOPLE, THINGS, ANIMALS][rng.integers(3)])
    kind = rng.integers(5)
    if kind == 0:
        return f"the {noun}"
    if kind == 1:
        return f"{_one(rng, POINTERS)} {_one(rng, ADJECTIVES)} {noun}"
    if kind == 2:
        return f"my {noun}"
    if kind == 3:
        return f"the {_one(rng, ADJECTIVES)} {noun}"
    return f"the {_one(rng, ADJECTIVES)} and {_one(rng, ADJECTIVES)} {noun}"


def _where(rng):
    return f"{_one(rng, PREPOSITIONS)} the {_one(rng, PLACES)}" if rng.random() < 0.7 else ""


def _clause(rng):
    if rng.random() < 0.5:
        return f"{_noun_phrase(rng)} {_one(rng, VERBS)} {_noun_phrase(rng)} {_where(rng)}"
    return f"{_noun_phrase(rng)} {_one(rng, MOVES)} {_one(rng, ADVERBS)} {_where(rng)}"


def _two_clauses(rng):
    return f"{_clause(rng)}, {_one(rng, WHEN)} {_clause(rng)}"


def _count(rng):
    things = " and ".join(f"{_one(rng, NUMBERS)} {_one(rng, ADJECTIVES)} {_one(rng, THINGS)}s" for _ in range(2))
    return f"there were {things} {_one(rng, PREPOSITIONS)} the {_one(rng, PLACES)}"


def _question(rng):
    return f"{_one(rng, QUESTIONS)} did {_noun_phrase(rng)} and {_noun_phrase(rng)} travel {_where(rng)}"


def _order(rng):
    return f"please put the {_one(rng, THINGS)} {_where(rng)}, and bring me {_noun_phrase(rng)} {_one(rng, ADVERBS)}"


_FORMS = (_clause, _clause, _two_clauses, _count, _question, _order)
