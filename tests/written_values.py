"""Values and the ways to write them, in five languages: a grammar of its own, which shares nothing with `whyrank.grounding`.

`cases` draws a value, two ways to write it, and one way to write another value of the same kind."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

__all__ = ["KINDS", "LANGUAGES", "Case", "cases"]

LANGUAGES = ("en", "de", "fr", "es", "zh")

Writer = Callable[[int], list[str]]
"""All ways to write a value."""


class Case(NamedTuple):
    """`same`: two ways to write one value. `other`: another value."""

    sentence: str
    same: tuple[str, str]
    other: str


# ------------------------------------------------------------------------------------------------------- numbers in words

_EN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen"
).split()
_EN_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_DE = (
    "null ein zwei drei vier fünf sechs sieben acht neun "
    "zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn achtzehn neunzehn"
).split()
_DE_TENS = "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig".split()
_FR = (
    "zéro un deux trois quatre cinq six sept huit neuf "
    "dix onze douze treize quatorze quinze seize dix-sept dix-huit dix-neuf"
).split()
_FR_TENS = "vingt trente quarante cinquante soixante soixante quatre-vingt quatre-vingt".split()
_ES = (
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis diecisiete dieciocho "
    "diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco veintiséis veintisiete veintiocho veintinueve"
).split()
_ES_TENS = "treinta cuarenta cincuenta sesenta setenta ochenta noventa".split()
_ES_HUNDREDS = (
    "ciento doscientos trescientos cuatrocientos quinientos seiscientos setecientos ochocientos novecientos".split()
)
_ZH = "零一二三四五六七八九"


def _en(n: int) -> str:
    if n < 20:
        return _EN[n]
    if n < 100:
        return _EN_TENS[n // 10 - 2] + (f"-{_EN[n % 10]}" if n % 10 else "")
    if n < 1000:
        return f"{_EN[n // 100]} hundred" + (f" and {_en(n % 100)}" if n % 100 else "")
    rest = n % 1000
    return f"{_en(n // 1000)} thousand" + (f"{' and' if rest < 100 else ''} {_en(rest)}" if rest else "")


def _de(n: int) -> str:
    if n < 20:
        return _DE[n]
    if n < 100:
        return (f"{_DE[n % 10]}und" if n % 10 else "") + _DE_TENS[n // 10 - 2]
    if n < 1000:
        return f"{_DE[n // 100]}hundert" + (_de(n % 100) if n % 100 else "")
    return f"{_de(n // 1000)}tausend" + (_de(n % 1000) if n % 1000 else "")


def _fr(n: int) -> str:
    if n < 20:
        return _FR[n]
    if n < 100:
        tens, ones = _FR_TENS[n // 10 - 2], n % 20 if n >= 60 else n % 10
        if not ones:
            return tens + ("s" if n == 80 else "")
        return f"{tens} et {_FR[ones]}" if ones in (1, 11) and n < 80 else f"{tens}-{_FR[ones]}"
    if n < 1000:
        hundreds = "cent" if n < 200 else f"{_FR[n // 100]} cent{'s' if n % 100 == 0 else ''}"
        return hundreds + (f" {_fr(n % 100)}" if n % 100 else "")
    return ("" if n < 2000 else f"{_fr_before_mille(n // 1000)} ") + "mille" + (f" {_fr(n % 1000)}" if n % 1000 else "")


def _fr_before_mille(n: int) -> str:
    written = _fr(n)
    return written.removesuffix("s") if written.endswith(("cents", "vingts")) else written


def _es(n: int) -> str:
    if n < 30:
        return _ES[n]
    if n < 100:
        return _ES_TENS[n // 10 - 3] + (f" y {_ES[n % 10]}" if n % 10 else "")
    if n == 100:
        return "cien"
    if n < 1000:
        return _ES_HUNDREDS[n // 100 - 1] + (f" {_es(n % 100)}" if n % 100 else "")
    return ("" if n < 2000 else f"{_es(n // 1000)} ") + "mil" + (f" {_es(n % 1000)}" if n % 1000 else "")


def _zh(n: int) -> str:
    if n < 10:
        return _ZH[n]
    written, gap = "", False
    for worth, sign in ((10_000, "万"), (1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, n = divmod(n, worth)
        if digit:
            lead = "零" if gap and written else ""
            one_ten = digit == 1 and worth == 10 and not written
            written, gap = written + lead + ("" if one_ten else _zh(digit)) + sign, False
        else:
            gap = True
    return written


WORDS: dict[str, Callable[[int], str]] = {"en": _en, "de": _de, "fr": _fr, "es": _es, "zh": _zh}
_GROUPS = {"en": ",", "de": ".", "fr": "\u202f", "es": ".", "zh": ","}
_POINT = {"en": ".", "de": ",", "fr": ",", "es": ",", "zh": "."}


def _digits(n: int, language: str) -> list[str]:
    grouped = f"{n:,}".replace(",", _GROUPS[language])
    return list(
        dict.fromkeys([str(n), grouped, f"{n:,}".replace(",", "\u00a0")] if language != "zh" else [str(n), grouped])
    )


def _decimal(value: float, language: str) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".").replace(".", _POINT[language])


# ------------------------------------------------------------------------------------------------------------------- kinds


def _counts(language: str) -> Writer:
    return lambda n: [*_digits(n, language), WORDS[language](n)]


_MILLIONS = {"en": "million", "de": "Millionen", "fr": "millions", "es": "millones", "zh": ""}
_OF = {"en": "", "de": "", "fr": "d'", "es": "de "}
_EUROS = {"en": "euros", "de": "Euro", "fr": "euros", "es": "euros", "zh": "欧元"}


def _money(language: str) -> Writer:
    name = _EUROS[language]

    def write(n: int) -> list[str]:
        if language == "zh":
            return [f"{n}欧元", f"€{n:,}", f"{_zh(n)}欧元"]
        return [
            *(f"{digits} {name}" for digits in _digits(n, language)),
            f"€{n}",
            f"{n} €",
            f"{WORDS[language](n)} {name}",
        ]

    return write


def _large_money(language: str) -> Writer:
    """`n` hundred thousand euros."""

    def write(n: int) -> list[str]:
        whole, millions = _digits(n * 100_000, language), _decimal(n / 10, language)
        if language == "zh":
            return [f"{n * 10}万欧元", *(f"{digits}欧元" for digits in whole)]
        written = f"{millions} {_MILLIONS[language]}"
        return [*(f"{digits} {_EUROS[language]}" for digits in whole), f"{written} {_OF[language]}{_EUROS[language]}"]

    return write


_PERCENT = {
    "en": ["%", " %", " per cent", " percent"],
    "de": ["%", " %", " Prozent"],
    "fr": ["%", " %", " pour cent"],
    "es": ["%", " %", " por ciento"],
    "zh": ["%"],
}


def _percentages(language: str) -> Writer:
    """`n` tenths of a per cent."""

    def write(n: int) -> list[str]:
        written = [f"{_decimal(n / 10, language)}{sign}" for sign in _PERCENT[language]]
        if language == "zh":
            point = f"点{_ZH[n % 10]}" if n % 10 else ""
            written.append(f"百分之{_zh(n // 10)}{point}")
        elif n % 10 == 0:
            written.append(f"{WORDS[language](n // 10)}{_PERCENT[language][-1]}")
        return written

    return write


_UNITS: dict[str, list[tuple[int, dict[str, str]]]] = {
    # Worth in the smallest, then its names.
    "mass": [
        (1, {"": "g", "en": "grams", "de": "Gramm", "fr": "grammes", "es": "gramos", "zh": "克"}),
        (1000, {"": "kg", "en": "kilograms", "de": "Kilogramm", "fr": "kilogrammes", "es": "kilogramos", "zh": "公斤"}),
        (1_000_000, {"": "t", "en": "tonnes", "de": "Tonnen", "fr": "tonnes", "es": "toneladas", "zh": "吨"}),
    ],
    "length": [
        (1, {"": "mm", "en": "millimetres", "de": "Millimeter", "fr": "millimètres", "es": "milímetros", "zh": "毫米"}),
        (
            10,
            {"": "cm", "en": "centimetres", "de": "Zentimeter", "fr": "centimètres", "es": "centímetros", "zh": "厘米"},
        ),
        (1000, {"": "m", "en": "metres", "de": "Meter", "fr": "mètres", "es": "metros", "zh": "米"}),
        (
            1_000_000,
            {"": "km", "en": "kilometres", "de": "Kilometer", "fr": "kilomètres", "es": "kilómetros", "zh": "公里"},
        ),
    ],
    "volume": [
        (1, {"": "ml", "en": "millilitres", "de": "Milliliter", "fr": "millilitres", "es": "mililitros", "zh": "毫升"}),
        (10, {"": "cl", "en": "centilitres", "de": "Zentiliter", "fr": "centilitres", "es": "centilitros"}),
        (1000, {"": "l", "en": "litres", "de": "Liter", "fr": "litres", "es": "litros", "zh": "升"}),
    ],
    "time": [
        (1, {"": "s", "en": "seconds", "de": "Sekunden", "fr": "secondes", "es": "segundos", "zh": "秒"}),
        (60, {"": "min", "en": "minutes", "de": "Minuten", "fr": "minutes", "es": "minutos", "zh": "分钟"}),
        (3600, {"": "h", "en": "hours", "de": "Stunden", "fr": "heures", "es": "horas", "zh": "小时"}),
    ],
    "area": [
        (
            1,
            {
                "": "m²",
                "en": "square metres",
                "de": "Quadratmeter",
                "fr": "mètres carrés",
                "es": "metros cuadrados",
                "zh": "平方米",
            },
        ),
        (10_000, {"": "ha", "en": "hectares", "de": "Hektar", "fr": "hectares", "es": "hectáreas", "zh": "公顷"}),
    ],
    "power": [
        (1, {"": "W", "en": "watts", "de": "Watt", "fr": "watts", "es": "vatios", "zh": "瓦"}),
        (1000, {"": "kW", "en": "kilowatts", "de": "Kilowatt", "fr": "kilowatts", "es": "kilovatios", "zh": "千瓦"}),
    ],
}


def _measures(dimension: str) -> Callable[[str], Writer]:
    """`n` times a fifth of the second unit: few digits in all of them."""

    def of(language: str) -> Writer:
        units = _UNITS[dimension]

        def write(n: int) -> list[str]:
            size, written = n * units[1][0] / 5, []
            for worth, names in units:
                value = _decimal(size / worth, language)
                if (
                    len(value) <= 6
                    and size / worth >= 0.05
                    and abs(float(value.replace(",", ".")) * worth - size) < 1e-6
                ):
                    written += [
                        f"{value} {names['']}",
                        f"{value}{'' if language == 'zh' else ' '}{names.get(language, names[''])}",
                    ]
            return written

        return write

    return of


_MONTHS = {
    "en": "January February March April May June July August September October November December".split(),
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember".split(),
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre".split(),
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre".split(),
}


def _dates(language: str) -> Writer:
    """`n`: days of 28 a month from the year 1900 on."""

    def write(n: int) -> list[str]:
        year, month, day = 1900 + n // 336, n // 28 % 12 + 1, n % 28 + 1
        iso = f"{year}-{month:02}-{day:02}"
        if language == "zh":
            han = "".join("〇一二三四五六七八九"[int(digit)] for digit in str(year))
            return [iso, f"{year}年{month}月{day}日", f"{han}年{_zh(month)}月{_zh(day)}日"]
        name = _MONTHS[language][month - 1]
        if language == "en":
            ending = "th" if day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
            return [
                iso,
                f"{day} {name} {year}",
                f"{name} {day}, {year}",
                f"{day}{ending} {name} {year}",
                f"{day} {name[:3]} {year}",
            ]
        if language == "de":
            return [iso, f"{day}. {name} {year}", f"{day:02}.{month:02}.{year}", f"{day}.{month}.{year}"]
        if language == "fr":
            return [
                iso,
                f"{day} {name} {year}",
                f"{day:02}/{month:02}/{year}",
                *([f"1er {name} {year}"] if day == 1 else []),
            ]
        return [iso, f"{day} de {name} de {year}", f"{day:02}/{month:02}/{year}", f"{day}/{month}/{year}"]

    return write


def _times(language: str) -> Writer:
    """`n`: five minutes each."""

    def write(n: int) -> list[str]:
        hour, minute = n // 12 % 24, n % 12 * 5
        half, afternoon = (hour - 1) % 12 + 1, hour >= 12
        written = [f"{hour}:{minute:02}", f"{hour:02}:{minute:02}"]
        if language == "en":
            written += [
                f"{half}:{minute:02} {'p.m.' if afternoon else 'a.m.'}",
                f"{half}.{minute:02} {'pm' if afternoon else 'am'}",
            ]
            if 0 < minute <= 30 and hour not in (0, 12):
                much = {15: "quarter", 30: "half"}.get(minute, _en(minute))
                written.append(f"{much} past {_en(half)}")
        elif language == "de":
            written = [
                f"{hour}:{minute:02} Uhr",
                f"{hour:02}.{minute:02} Uhr",
                f"{hour} Uhr {minute}" if minute else f"{hour} Uhr",
            ]
        elif language == "fr":
            written += [f"{hour} h {minute:02}", f"{hour}h{minute:02}"]
        elif language == "es":
            written += [f"{hour}.{minute:02} h", f"{hour}:{minute:02} h"]
        elif minute:
            written += [f"{hour}时{minute}分", f"{'下午' if afternoon else '上午'}{half}点{minute}分"]
        return written

    return write


KINDS: dict[str, tuple[Callable[[str], Writer], range, dict[str, str]]] = {
    "count": (
        _counts,
        range(2, 30_000),
        {
            "en": "The archive in the old harbour holds {} letters from sailors.",
            "de": "Das Archiv im alten Hafen bewahrt {} Briefe von Seeleuten auf.",
            "fr": "Les archives du vieux port conservent {} lettres de marins.",
            "es": "El archivo del puerto viejo conserva {} cartas de marineros.",
            "zh": "旧港口的档案馆保存着{}封水手的信件。",
        },
    ),
    "money": (
        _money,
        range(2, 9_000),
        {
            "en": "The council paid {} for the bronze bell of the chapel.",
            "de": "Der Rat zahlte {} für die Bronzeglocke der Kapelle.",
            "fr": "Le conseil a payé {} pour la cloche de bronze de la chapelle.",
            "es": "El consejo pagó {} por la campana de bronce de la capilla.",
            "zh": "议会为教堂的铜钟支付了{}的费用。",
        },
    ),
    "percentage": (
        _percentages,
        range(11, 990),
        {
            "en": "The turnout in the northern district was {} of the voters.",
            "de": "Die Beteiligung im nördlichen Bezirk lag bei {} der Wähler.",
            "fr": "La participation dans le district du nord était de {} des électeurs.",
            "es": "La participación en el distrito norte fue del {} de los votantes.",
            "zh": "北部选区的投票率为{}，由委员会公布。",
        },
    ),
    "date": (
        _dates,
        range(336 * 120),
        {
            "en": "The bridge over the river was opened on {} by the mayor.",
            "de": "Die Brücke über den Fluss wurde am {} vom Bürgermeister eröffnet.",
            "fr": "Le pont sur la rivière a été ouvert le {} par le maire.",
            "es": "El puente sobre el río fue inaugurado el {} por el alcalde.",
            "zh": "河上的大桥于{}由市长剪彩通车。",
        },
    ),
    "time": (
        _times,
        range(288),
        {
            "en": "The last ferry to the island leaves at {} from the stone pier.",
            "de": "Die letzte Fähre zur Insel fährt um {} vom Steinpier ab.",
            "fr": "Le dernier bac pour l'île part à {} du quai de pierre.",
            "es": "El último barco a la isla sale a las {} del muelle de piedra.",
            "zh": "开往岛屿的末班渡轮{}从石码头出发。",
        },
    ),
}
KINDS["large money"] = (_large_money, range(11, 900), KINDS["money"][2])
_SENTENCES = {
    "mass": {
        "en": "The statue in the square weighs {} without its plinth.",
        "de": "Die Statue auf dem Platz wiegt {} ohne ihren Sockel.",
        "fr": "La statue de la place pèse {} sans son socle.",
        "es": "La estatua de la plaza pesa {} sin su pedestal.",
        "zh": "广场上的雕像重{}，底座另计。",
    },
    "length": {
        "en": "The cable behind the workshop is {} long in total.",
        "de": "Das Kabel hinter der Werkstatt ist insgesamt {} lang.",
        "fr": "Le câble derrière l'atelier mesure {} de long au total.",
        "es": "El cable detrás del taller mide {} de largo en total.",
        "zh": "车间后面的电缆全长{}，已经检修。",
    },
    "volume": {
        "en": "The copper tank in the cellar takes {} of clean water.",
        "de": "Der Kupfertank im Keller fasst {} sauberes Wasser.",
        "fr": "La cuve de cuivre de la cave contient {} d'eau propre.",
        "es": "El tanque de cobre del sótano contiene {} de agua limpia.",
        "zh": "地窖里的铜罐可装{}的清水。",
    },
    "time": {
        "en": "The pump in the greenhouse runs for {} after each watering.",
        "de": "Die Pumpe im Gewächshaus läuft {} nach jedem Gießen.",
        "fr": "La pompe de la serre tourne {} après chaque arrosage.",
        "es": "La bomba del invernadero funciona {} después de cada riego.",
        "zh": "温室里的水泵每次浇水后运行{}才停。",
    },
    "area": {
        "en": "The meadow beside the abbey covers {} of dry land.",
        "de": "Die Wiese neben der Abtei umfasst {} trockenes Land.",
        "fr": "Le pré à côté de l'abbaye couvre {} de terre sèche.",
        "es": "El prado junto a la abadía ocupa {} de tierra seca.",
        "zh": "修道院旁的草地占地{}，土质干燥。",
    },
    "power": {
        "en": "The engine of the mill delivers {} at full load.",
        "de": "Der Motor der Mühle leistet {} bei voller Last.",
        "fr": "Le moteur du moulin fournit {} à pleine charge.",
        "es": "El motor del molino entrega {} a plena carga.",
        "zh": "磨坊的发动机满载时输出{}的功率。",
    },
}
KINDS |= {f"{name} measure": (_measures(name), range(2, 400), texts) for name, texts in _SENTENCES.items()}


def cases(kind: str, language: str, count: int, seed: int) -> Iterator[Case]:
    """Other values are far enough from the first that rounding cannot make them equal, and no multiple of ten of it."""
    writer, values, sentences = KINDS[kind]
    dice, write = random.Random(f"{kind} {language} {seed}"), writer(language)
    while count:
        value, other = dice.choice(values), dice.choice(values)
        ways, others = write(value), write(other)
        far = abs(value - other) > 0.1 * max(value, other) if kind not in ("date", "time") else (value - other) % 144
        multiple = kind not in ("date", "time") and str(value).strip("0") == str(other).strip("0")
        if len(ways) < 2 or not others or not far or multiple:
            continue
        first, second = dice.sample(ways, 2)
        count -= 1
        yield Case(sentences[language], (first, second), dice.choice(others))
