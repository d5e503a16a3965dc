"""The role of a column that nobody recognised: by its header, and by what its cells show."""

from __future__ import annotations

import re

from dgmvlc_cli.text.codes import SITE_WORDS, codes_apart, is_coded
from dgmvlc_cli.text.columns import FITS, MAX_LEVELS, Column, plain
from dgmvlc_cli.text.schema import Role, fold

MAX_MISSING = 0.6
# Rows from which "all different" and "one more each" are no chance.
MANY = 8

# Stems in English, German, French, Spanish and Italian.  Dead space, vital capacity and response
# to a bronchodilator are measures of the lung; progressive is a kind of disease.
OUTCOME_WORDS = re.compile(
    r"surviv|survie|supervivenc|sopravviven|ue?berleb|dead(?! ?space)|death|deceas|mortal|alive|"
    r"verstorb|gestorb|sterbe|fallec|relaps|re[cz]idiv|recurr|progres(?!s?iv)|progred|recist|"
    r"follow ?up|vital ?stat|"
    r"\b(died|dod|dece[sd]|mort(?!ar)|muert|defunc|rechut|recaid|ricadut|censor|nachsorge|seguimiento)|"
    r"\b(tod(es\w*)?|os|pfs|dfs|rfs|efs|events?|outcomes?|suivi|time to|vital|"
    r"last (known|seen|contact|visit))\b(?! (capac|sign))|"
    r"(?<!dilator )\brespon(se|der)s?\b(?! to bronch)"
)
# What the cells of such a column say first, as in `1:DECEASED`.
OUTCOME_VALUES = frozenset(
    {"alive", "living", "dead", "deceased", "died", "expired", "lebt", "lebend", "tot",
     "verstorben", "gestorben", "vivant", "vivante", "decede", "decedee", "mort", "vivo", "viva",
     "muerto", "muerta", "fallecido", "fallecida", "morto", "morta", "deceduto", "deceduta"}
)  # fmt: skip
TREATMENT_WORDS = re.compile(
    r"\b(treatment|chemotherapy|radiation|radiotherapy|adjuvant|therapy|surgery|surgical)\b"
)
# Whom a row is of; the id column itself is found before.
PERSON_WORDS = re.compile(
    r"\b(mrn|ssn|uid|ids?|(patient|first|last|full|given|family|sur|birth) ?names?|initials|"
    r"nachname|vorname|e ?mail|tele(ph|f)on\w*|phone|mobile|fax|address|street|zip|plz|"
    r"post\w* ?code|(patient|record|accession|insurance|case|study) (no|nr|number))\b|^name$"
)
# The likeliest first.
SCAN_DATE_WORDS = (
    r"\b(ct|hrct|scan)\b.*\bdate\b|\bdate\b.*\b(ct|hrct|scan)\b",
    r"\b(scanning|imaging|image|acquisition)\b.*\bdate\b|\bdate\b.*\b(imaging|acquisition)\b",
    r"\b(study|exam|examination)\b.*\bdate\b",
)
OTHER_DATE_WORDS = re.compile(
    r"\b(entry|enrol\w*|inclusion|consent|start|end|report|pet|mri?|x ?ray|ultrasound|next|prior|"
    r"previous|surgery|biopsy)\b"
)
# Dates of what a patient brings to the scan; others (an entry, another image) say little.
HISTORY_WORDS = re.compile(r"\b(diag\w*|onset|symptom\w*|expos\w*|transplant\w*|start\w*)\b")
# An age that is no number of years.
AGE_WORDS = re.compile(r"^age( groups?| class| cat\w*| codes?| bands?| bins?| range| months)?$")
# 1941 to 2064, in days since 1900.
SERIAL_DATES = (15000, 60000)
TARGET_NAMES = frozenset({"label", "target", "class", "event", "outcome", "y"})


def find_scan_date(columns: list[Column]) -> Column | None:
    """The column with the date of the scan, by its header and its cells."""
    dates = [c for c in columns if "date" in c.words and c.is_date and not is_outcome(c)]
    others = [c for c in dates if not OTHER_DATE_WORDS.search(c.words)]
    named = (c for words in SCAN_DATE_WORDS for c in others if re.search(words, c.words))
    return next(named, None)


def role_of(column: Column, scan: Column | None) -> tuple[Role, str]:
    """The role of a column nobody recognised, and the reason."""
    if column is scan:
        return "ignore", "The date of the scan: durations are counted up to it."
    if is_outcome(column):
        return "outcome", "Outcome: kept out of the sentence, as it happens after the scan."
    if column.words in TARGET_NAMES:
        return "outcome", "Outcome: columns of this name hold what somebody wants to predict."
    if not column.distinct:
        return "ignore", "Ignored: no values."
    if len({fold(text) for text in column.distinct.keys() - set(codes_apart(column))}) == 1:
        return "ignore", "Ignored: one value only."
    if is_days(column) and column.share_between(*SERIAL_DATES) >= FITS:
        return "ignore", (
            "Ignored: looks like a spreadsheet's serial dates; format the column as a date."
        )
    if re.search(r"\bdate\b", column.words) and not column.is_date and not column.is_numeric:
        return "ignore", "Ignored: not read as dates; write them as 2019-01-31."
    if reason := identifies(column):
        return "ignore", f"Ignored: {reason}."
    if column.missing_share > MAX_MISSING:
        return "ignore", f"Ignored: {column.missing_share:.0%} missing."
    if TREATMENT_WORDS.search(column.words):
        return "ignore", 'Ignored: treatment is mostly after the scan; else set role = "condition".'
    if column.is_date:
        return _date_role(column, scan)
    if is_days(column) and column.numbers.median() >= 0:
        return "ignore", "Ignored: days, but before the scan or after it?"
    if not column.is_numeric and len(column.distinct) > MAX_LEVELS:
        return "ignore", f"Ignored: {len(column.distinct)} different texts."
    if re.search(SITE_WORDS, column.words):
        if column.is_numeric and not is_coded(column) and (column.numbers.dropna() % 1 == 0).all():
            return "ignore", f"Ignored: {len(column.distinct)} different codes."
        return "covariate", "Covariate: sites and scanners differ in HU."
    if AGE_WORDS.search(column.words):
        return "covariate", "Covariate: age."
    if re.search(r"\b(sex|gender)\b", column.words):
        return "ignore", 'Ignored: codes; say with levels and synonyms which is "female", "male".'
    return "condition", ""


def is_outcome(column: Column) -> bool:
    """Whether header or cells tell what became of the patient after the scan."""
    if OUTCOME_WORDS.search(column.words):
        return True
    first = {text: re.search(r"[a-z]+", plain(text)) for text in column.distinct}
    fates = {text for text, word in first.items() if word and word[0] in OUTCOME_VALUES}
    return bool(fates) and column.share_of(fates) >= FITS


def identifies(column: Column) -> str:
    """Why the column says only which row or person it is of; empty if it says more."""
    if re.search(SITE_WORDS, column.words) or column.is_date:
        return ""
    if PERSON_WORDS.search(column.words):
        return "it names a person or a record"
    if len(column.present) < MANY:
        return ""
    steps = column.numbers.reset_index(drop=True)
    if (steps == steps.index).all() or (steps == steps.index + 1).all():
        return "it counts the rows"
    unlike = column.present.is_unique and not column.is_numeric
    return "every text is different" if unlike else ""


def is_days(column: Column) -> bool:
    """Whether a column called a date holds numbers: days from the scan, negative before it."""
    named = re.search(r"\bdate\b", column.words) is not None
    return named and column.is_numeric and not column.is_date


def _date_role(column: Column, scan: Column | None) -> tuple[Role, str]:
    """A date enters the sentence where it is part of the history up to the scan."""
    if scan is None:
        return "ignore", "Ignored: a calendar date says little without the date of the scan."
    if not HISTORY_WORDS.search(column.words):
        return "ignore", (
            'Ignored: a calendar date says little; role = "condition" says it as years before '
            "the scan."
        )
    before = _share_before(column, scan)
    if before < FITS:
        return "ignore", f"Ignored: only {before:.0%} of the dates lie before the scan."
    return "condition", f"{before:.0%} before the scan; said as years before it."


def _share_before(column: Column, scan: Column) -> float:
    """Share of the dates that are not after the scan of their row."""
    rows = zip(column.dates, scan.dates, strict=True)
    known = [(day, scanned) for day, scanned in rows if day and scanned]
    return sum(day <= scanned for day, scanned in known) / max(len(known), 1)
