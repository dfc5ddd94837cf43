"""The 400 objects of Emoji World: icon names that all three sets share, and display names.

An object is identified by its index in `OBJECTS`. The order is part of the data set.
"""

from __future__ import annotations

_NAMES = """
ant bat bear bug butterfly camel cat cow crab crocodile deer dog dolphin duck eagle elephant fish
flamingo fox frog giraffe gorilla hatching-chick hedgehog hippopotamus honeybee horse jellyfish
kangaroo koala lady-beetle lion lizard lobster monkey mouse octopus owl panda parrot peacock
penguin pig polar-bear rabbit raccoon rhinoceros rooster sauropod scorpion shark shrimp snail
snake spider swan t-rex tiger turtle unicorn whale wolf zebra bird dragon spiral-shell bone

bouquet cactus cherry-blossom deciduous-tree evergreen-tree fallen-leaf four-leaf-clover lotus
maple-leaf mushroom palm-tree potted-plant rose seedling sunflower tulip

avocado bacon baguette-bread banana beer-mug bell-pepper birthday-cake blueberries bread broccoli
bubble-tea burrito butter candy carrot cheese-wedge cherries chocolate-bar cocktail-glass coconut
cookie croissant cucumber cupcake doughnut ear-of-corn egg eggplant french-fries garlic grapes
green-apple green-salad hamburger honey-pot hot-beverage hot-dog hot-pepper ice-cream kiwi-fruit
lemon lime lollipop meat-on-bone onion pancakes peach peanuts pear pie pineapple pizza popcorn
potato pretzel red-apple sandwich shortcake soft-ice-cream steaming-bowl strawberry sushi taco
tangerine teapot tomato tropical-drink waffle watermelon wine-glass bottle-with-popping-cork
baby-bottle

airplane ambulance automobile bicycle bullet-train bus canoe delivery-truck fire-engine
flying-saucer helicopter locomotive manual-wheelchair motor-scooter motorcycle parachute
police-car racing-car rocket roller-skate sailboat ship skateboard speedboat taxi tractor train

castle church circus-tent factory ferris-wheel fountain house mosque roller-coaster shinto-shrine
tent volcano snow-capped-mountain playground-slide cloud cloud-with-rain crescent-moon droplet
fire full-moon high-voltage rainbow ringed-planet snowflake snowman star sun tornado
globe-showing-americas

backpack bikini billed-cap coat crown dress glasses gloves graduation-cap high-heeled-shoe
hiking-boot jeans kimono lipstick mans-shoe necktie purse ring running-shoe safety-vest scarf
shorts socks sunglasses t-shirt thong-sandal top-hat briefcase

american-football baseball basketball boomerang bowling boxing-glove bullseye ice-hockey ice-skate
kite ping-pong pool-8-ball skis soccer-ball sports-medal trophy volleyball yo-yo fishing-pole
diving-mask

accordion bell drum flute guitar maracas musical-keyboard saxophone trumpet violin musical-note

adhesive-bandage anchor axe balance-scale balloon basket bathtub battery bed bomb broom bucket
camera candle carpentry-saw chair coffin coin compass computer-mouse couch-and-lamp credit-card
crystal-ball dagger desktop-computer dna door electric-plug envelope fire-extinguisher floppy-disk
folding-hand-fan framed-picture fuel-pump game-die gear gem-stone hammer headphone headstone
hourglass-done jack-o-lantern joystick key keyboard kitchen-knife ladder laptop light-bulb locked
luggage magnet magnifying-glass-tilted-left megaphone microphone microscope mirror-ball
mobile-phone money-bag movie-camera newspaper open-book books artist-palette paintbrush paperclip
party-popper pen pencil pill printer puzzle-piece radio red-paper-lantern rescue-workers-helmet
ribbon ring-buoy scissors screwdriver shield shopping-cart soap sponge spoon stethoscope stopwatch
straight-ruler syringe teddy-bear telephone telescope television thermometer toilet toolbox
toothbrush umbrella video-game wastebasket watch wheel window wrapped-gift wrench yarn
fork-and-knife-with-plate chess-pawn red-heart green-heart blue-heart

brain ear eye mouth nose tooth alien alien-monster clown-face ghost pile-of-poo robot skull
smiling-face-with-sunglasses crying-face cowboy-hat-face nerd-face face-with-medical-mask
sleeping-face smiling-face-with-heart-eyes
"""

OBJECTS: tuple[str, ...] = tuple(_NAMES.split())
"""Icon names, 400 of them, the same in every set."""

# Icons whose name does not describe the image.
_DISPLAY_NAMES = {
    "automobile": "car",
    "baguette-bread": "baguette",
    "billed-cap": "cap",
    "bottle-with-popping-cork": "bottle of champagne",
    "bowling": "bowling set",
    "bug": "caterpillar",
    "carpentry-saw": "saw",
    "adhesive-bandage": "bandage",
    "alien-monster": "pixel monster",
    "bubble-tea": "cup of bubble tea",
    "couch-and-lamp": "couch",
    "cowboy-hat-face": "cowboy face",
    "deciduous-tree": "leafy tree",
    "dna": "DNA strand",
    "evergreen-tree": "fir tree",
    "face-with-medical-mask": "masked face",
    "fork-and-knife-with-plate": "dinner plate",
    "four-leaf-clover": "four-leaf clover",
    "gem-stone": "diamond",
    "globe-showing-americas": "globe",
    "headphone": "headphones",
    "high-heeled-shoe": "high-heeled shoe",
    "high-voltage": "lightning bolt",
    "hot-beverage": "cup of coffee",
    "hot-pepper": "chili pepper",
    "hourglass-done": "hourglass",
    "ice-cream": "bowl of ice cream",
    "ice-hockey": "hockey stick",
    "jack-o-lantern": "jack-o-lantern",
    "keyboard": "computer keyboard",
    "lady-beetle": "ladybug",
    "locked": "padlock",
    "luggage": "suitcase",
    "magnifying-glass-tilted-left": "magnifying glass",
    "mans-shoe": "leather shoe",
    "manual-wheelchair": "wheelchair",
    "meat-on-bone": "piece of meat",
    "musical-keyboard": "piano keyboard",
    "ping-pong": "ping-pong paddle",
    "pool-8-ball": "billiard ball",
    "rescue-workers-helmet": "rescue helmet",
    "ring-buoy": "life buoy",
    "sauropod": "long-necked dinosaur",
    "shortcake": "slice of cake",
    "smiling-face-with-heart-eyes": "face with heart eyes",
    "smiling-face-with-sunglasses": "face with sunglasses",
    "snow-capped-mountain": "snow-capped mountain",
    "soap": "bar of soap",
    "soft-ice-cream": "ice cream cone",
    "spiral-shell": "sea shell",
    "steaming-bowl": "bowl of noodles",
    "straight-ruler": "ruler",
    "t-rex": "t-rex",
    "t-shirt": "t-shirt",
    "thong-sandal": "flip-flop",
    "video-game": "game controller",
    "wine-glass": "glass of wine",
    "yarn": "ball of yarn",
    "yo-yo": "yo-yo",
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Plurals and uncountable nouns.
_NO_ARTICLE = _words(
    """
    bacon blueberries books bread broccoli butter candy cherries fire french-fries garlic glasses
    gloves grapes headphone jeans maracas pancakes peanuts popcorn scissors shorts skis socks
    sunglasses sushi
    """
)

# The first letter and the first sound disagree.
_ARTICLE = {"hourglass-done": "an", "unicorn": "a"}

# Mirrored, these have reversed letters, digits, clock faces or maps, or the other moon phase.
_NOT_MIRRORABLE = _words(
    """
    ambulance battery coin compass credit-card crescent-moon desktop-computer fire-engine
    floppy-disk fuel-pump globe-showing-americas headstone keyboard laptop mobile-phone money-bag
    musical-keyboard musical-note newspaper police-car pool-8-ball racing-car radio sleeping-face
    stopwatch taxi telephone watch
    """
)


def display_name(name: str) -> str:
    """The name of an object in captions: `"red-apple"` gives `"red apple"`."""
    return _DISPLAY_NAMES.get(name, name.replace("-", " "))


def with_article(name: str) -> str:
    """The display name with its article, if it takes one: `"an owl"`, `"scissors"`."""
    words = display_name(name)
    if name in _NO_ARTICLE:
        return words
    article = _ARTICLE.get(name, "an" if words[0] in "aeiou" else "a")
    return f"{article} {words}"


def mirrorable(name: str) -> bool:
    """Whether the mirrored icon still shows the object."""
    return name not in _NOT_MIRRORABLE
