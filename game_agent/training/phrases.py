"""How characters speak, and what worlds are made of besides names."""

from __future__ import annotations

# How a character speaks: what is said before every reply, and how a profile may say so.
MANNERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "gruff": ("Hmph. ", ("gruff", "gruffly", "rude", "grumpy")),
    "polite": ("Of course, friend. ", ("polite", "politely", "courteous", "kind")),
    "cheerful": ("Ha! ", ("cheerful", "cheerfully", "merry", "friendly")),
    "shy": ("Um... ", ("shy", "shyly", "timid", "nervous")),
    "archaic": ("Hear me. ", ("archaic", "solemn", "old-fashioned", "wise")),
    "plain": ("", ("plainly", "calm")),
}

WEATHERS = [
    "rain",
    "snow",
    "fog",
    "storm",
    "wind",
    "sun",
    "hail",
    "clouds",
    "drizzle",
    "heat",
    "mist",
    "thunder",
]
TIMES = ["dawn", "morning", "noon", "afternoon", "dusk", "evening", "midnight", "night"]
SEASONS = ["spring", "summer", "autumn", "winter"]
MOODS = [
    "happy",
    "sad",
    "angry",
    "tired",
    "worried",
    "calm",
    "hungry",
    "bored",
    "proud",
    "afraid",
    "curious",
    "friendly",
]
QUEST_STATES = ("active", "done", "failed", "not started", "open", "completed", "in progress")
DOOR_STATES = ("open", "closed", "locked")
SKILLS = [
    "fishing",
    "cooking",
    "singing",
    "hunting",
    "dancing",
    "reading",
    "sailing",
    "riding",
    "painting",
    "archery",
]
WEAKNESSES = [
    "fire",
    "ice",
    "silver",
    "light",
    "water",
    "holy",
    "water",
    "garlic",
    "iron",
    "poison",
    "thunder",
    "salt",
]
OFFICES = [
    "king",
    "queen",
    "mayor",
    "captain",
    "bishop",
    "smith",
    "sheriff",
    "healer",
    "judge",
    "champion",
]
DIRECTIONS = ("north", "east", "south", "west")
DEEDS = (
    "left {the_place}",
    "lost {the_thing}",
    "found {the_thing}",
    "bought {the_thing}",
    "sold {the_thing}",
    "fell asleep",
    "broke {the_thing}",
    "won a game of dice",
    "fought with a guard",
)
DESCRIPTIONS = (
    "A quiet corner with little light.",
    "It smells of bread and smoke.",
    "Cold stone walls all around.",
    "Full of noise and laughter.",
    "Nobody has cleaned here for years.",
    "A narrow way leads down.",
    "Sunlight falls through a broken roof.",
    "The floor creaks at every step.",
    "Old maps hang on the walls.",
    "People come here to rest.",
    "Somebody left in a hurry.",
    "There is dust on everything.",
)
REPLIES = ("I see.", "Very well.", "Good to know.", "So be it.", "As you say.", "I will remember.")
