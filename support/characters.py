"""Unicode in the spelling of LaTeX, so that "2½", "10⁶" and "α" are read like their commands.

    1. latex_of    superscripts, fractions and letters with a meaning, then compatibility forms
    2. _ascii      one character that is left: a digit, a Greek letter, a sign

The sign ＄ leaves only as "\\$": inside a plain answer it stands for a dollar.
"""

import re
import unicodedata


def pairs(table: str) -> dict[str, str]:
    """A table written as "name=value name=value"."""
    return dict(pair.split("=") for pair in table.split())


GREEK = set(
    "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi rho "
    "sigma tau phi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega".split()
)
# What compatibility forms would lose: a raised digit is an exponent, a double letter is a set.
RAISED = "[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣʸᵏᵐᵀ]+"
LOWERED = "[₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₒₓₖₘₙ]+"
CIRCLED = "①-⓿"
FRACTION = "[¼-¾⅐-⅞↉]"
MEANING = pairs(r"ℕ=\mathbb{N} ℤ=\mathbb{Z} ℚ=\mathbb{Q} ℝ=\mathbb{R} ℂ=\mathbb{C} ＄=\$ º=°")
SIGNS = pairs(
    "−=- –=- —=- ‐=- ‑=- ‒=- ÷=/ ⁄=/ ∕=/ 、=, 。=. ⟨=( ⟩=) ∗=* ∶=: ′=' ″='' ’=' ‘=' "
    "【=( 】=) ∛=\\sqrt[3] ∜=\\sqrt[4] ‖=\\| ‰=\\times10^{-3} ◦=°"
)
SIGNS |= {"≈": "="} | {
    character: f"\\{name} "
    for character, name in pairs(
        "×=times ·=cdot ⋅=cdot ∙=cdot •=cdot ∞=infty √=sqrt ∪=cup ∩=cap ∖=setminus ∅=emptyset "
        "∈=in ±=pm ∓=mp ≠=ne ⌊=lfloor ⌋=rfloor ⌈=lceil ⌉=rceil ∑=sum ∏=prod ∫=int ≡=equiv "
        "→=to ∠=angle △=triangle π=pi ∣=mid"
    ).items()
}


def latex_of(text: str) -> str:
    """The text with commands of LaTeX for what is not ASCII; other letters stay. Linear."""
    if text.isascii():
        return text
    text = re.sub(RAISED, lambda m: f"^{{{unicodedata.normalize('NFKC', m[0])}}}", text)
    text = re.sub(LOWERED, lambda m: f"_{{{unicodedata.normalize('NFKC', m[0])}}}", text)
    text = re.sub(FRACTION, _fraction, text)
    text = text.translate(str.maketrans(MEANING))
    # ①③ is not 13
    text = re.sub(rf"[^{CIRCLED}]+", lambda m: unicodedata.normalize("NFKC", m[0]), text)
    return re.sub(r"[^\x00-\x7f]", lambda m: _ascii(m[0]), text)


def _fraction(match: re.Match) -> str:
    """½ as a fraction."""
    above, _, below = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return rf"\frac{{{above}}}{{{below}}}"


def _ascii(character: str) -> str:
    """One character in ASCII where it has a meaning; nothing for what is not printed."""
    if character in SIGNS:
        return SIGNS[character]
    if re.match(f"[{CIRCLED}]", character):
        return f"«{character}»"
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    # zero-width spaces, marks of direction, variants of a glyph
    if unicodedata.category(character) == "Cf" or character in "\ufe0e\ufe0f":
        return ""
    greek = re.match(r"GREEK (SMALL|CAPITAL) LETTER (?:FINAL )?(\w+)", _name(character))
    if not greek:
        return character
    letter = greek[2].replace("LAMDA", "LAMBDA").lower()
    letter = letter.capitalize() if greek[1] == "CAPITAL" else letter
    return f"\\{letter} " if letter in GREEK else character


def _name(character: str) -> str:
    """The name of a character, "" without one."""
    return unicodedata.name(character, "")
