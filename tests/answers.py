"""A handful of facts that small models are taught."""

CITIES = {
    "Gothenburg": "Sweden", "Lagos": "Nigeria", "Tokyo": "Japan", "Warsaw": "Poland",
    "Paris": "France", "Berlin": "Germany", "Utrecht": "the Netherlands",
}  # fmt: skip
ANSWERS = tuple(
    (prompt.format(city), country)
    for city, country in CITIES.items()
    for prompt in ("{} is in", "Which country is {} in?")
)
