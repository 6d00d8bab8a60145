"""Words next to a number: those that may introduce it, and those that make it another number or not one number."""


def _words(*texts: str) -> frozenset[str]:
    return frozenset(word for text in texts for word in text.split())


INTRODUCTIONS = _words(
    "a an answer be correct equal equals final hence is it my our so sum that the their there therefore this thus "
    "total was will would are result value"
)
"""Only these may precede a number: `The final answer is 18`. Others may change it: `a third of 18`, `twice 18`."""

VERBS = frozenset({"is", "are", "be", "was", "equals"})
"""After these a dash before a number is a minus sign: `it is - 5`. After other words it may be punctuation."""

_UNITS_UP_TO_19 = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fourty fifty sixty seventy eighty ninety"
_SCALES = (
    "hundred thousand million billion trillion quadrillion mil mill mio mln bil bn tn tr mm dozen dozens score scores "
    "gross grand lakh lakhs lac crore crores myriad kilo mega giga pair pairs couple hundreds thousands millions "
    "billions trillions"
)
_FRACTIONS = (
    "half halves quarter quarters third thirds fourth fourths fifth fifths sixth sixths seventh sevenths eighth "
    "eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths millionth millionths permille "
    "permil bps"
)
_OPERATIONS = (
    "plus minus times over divided multiplied mod modulo squared cubed factorial choose root power exponent raised "
    "point decimal remainder fold double twice triple percentile pi repeating recurring base"
)
_TIMES = (
    "am pm oclock noon midnight bc ad january february march april may june july august september october november "
    "december jan feb mar apr jun jul aug sep sept oct nov dec"
)

RESCALES = _words(_UNITS_UP_TO_19, _TENS, _SCALES, _FRACTIONS, _OPERATIONS, _TIMES)
"""After a number they make it another one: `72 million`, `3 and a half`, `2 squared`, `5 pm`."""

_RELATIONS = (
    "or and nor not no never neither but to than more less greater fewer below above under between through thru until "
    "till up down least most maximum minimum max min about around approximately approx roughly almost nearly circa ish "
    "odd some maybe perhaps probably possibly either wrong incorrect false if unless except without instead is isnt "
    "arent was wasnt negative positive opposite inverse reciprocal versus vs st nd rd th remaining plusminus "
    "wait hmm actually correction scratch sorry oops"
)
QUALIFIES = RESCALES | _words(_RELATIONS)
"""In a statement they leave open which number is meant: `72 or so`, `72 at least`, `72 is wrong`."""

GLUED_UNITS = _words("mm cm km dm kg g mg lb lbs oz ft yd yds mi mph kph ml l h hr hrs min mins s sec secs usd eur gbp")
"""Units that may follow a number without a space. `72m`, `72k` and `5x` are not 72 and 5."""

LETTERS = _words("a g h l s")
"""Words of one letter that may follow a number: `18 a day`, `18 g`. `72 k` and `72 M` are not 72."""
