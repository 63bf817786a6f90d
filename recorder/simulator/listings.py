"""What is listed on each simulated cluster: symbols, prices, and how the volume is spread over them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from random import Random
from typing import Final, NamedTuple

SYMBOLS_DEFAULT: Final = {
    "stocks": 8_000,
    "options": 10_000,
    "futures": 200,
    "crypto": 300,
    "forex": 60,
    "indices": 200,
}

SIMULATED: Final = tuple(SYMBOLS_DEFAULT)
"""The clusters that have a market here."""

# Zipf-Mandelbrot weights 1 / (rank + 45)^1.26 over 8,000 symbols give the top 10 / 100 / 500 / 1,000 about
# 7 / 35 / 64 / 75 % of the volume; the US stock market has 9 / 33 / 62 / 77 %.
_RANK_SHIFT: Final = 45.0
_RANK_EXPONENT: Final = 1.26

_STOCKS: Final = """
NVDA TSLA AAPL SPY AMD PLTR F INTC BAC SOFI QQQ T TQQQ AMZN NIO MARA SNAP PFE AAL CCL WBD RIVN GOOGL MSFT
META LCID HOOD GRAB VALE ITUB NOK SMCI KVUE IWM XLF EEM HYG TLT FXI KWEB GOOG BABA UBER WFC C VZ CMCSA CSCO
MU KO XOM CVX JPM DIS NKE WMT KEY RIG ET PBR NU GM DAL UAL JBLU PLUG OPEN CLF FCX GOLD NEM X HAL SLB OXY MRO
AVGO ORCL CRM NFLX ADBE QCOM TXN INTU SHOP SQ PYPL COIN MSTR RBLX DKNG AI IBM GE BA CAT DE HON MMM LMT RTX V
MA BRK.B JNJ UNH LLY ABBV MRK ABT TMO DHR BMY AMGN GILD CVS PG PEP COST HD LOW MCD SBUX TGT TJX LULU BKNG A
AM NA TRUE NULL BRK.A BF.B JPMpC BACpM BCpC BESS.WS AAC.U GEVw NTEST.Q ZVZZT ON IT ALL ANY ARE BE CAN GO HAS
KEYS
"""
_STOCK_SUFFIXES: Final = (".WS", ".U", ".A", ".B", "pA", "pB", "pC", "w", ".RT")
_PRICES: Final = {
    "NVDA": 176, "TSLA": 415, "AAPL": 272, "SPY": 668, "AMD": 210, "QQQ": 598, "AMZN": 221, "MSFT": 472,
    "GOOGL": 299, "META": 594, "BRK.A": 752_000, "BRK.B": 501, "F": 13, "T": 26, "BAC": 52, "JPM": 299,
    "I:SPX": 6603, "I:NDX": 24240, "I:DJI": 46245, "I:RUT": 2370, "I:VIX": 23, "BTC-USD": 84_500, "ETH-USD": 2_760,
    "SOL-USD": 127, "XRP-USD": 1.95, "DOGE-USD": 0.14, "ADA-USD": 0.41, "LTC-USD": 83, "BCH-USD": 545, "LINK-USD": 12.2,
    "AVAX-USD": 13.2, "DOT-USD": 2.31, "UNI-USD": 6.1, "SHIB-USD": 0.0000078, "XLM-USD": 0.23, "ATOM-USD": 2.45,
}  # fmt: skip

_UNDERLYINGS: Final = (("SPY", 668), ("QQQ", 598), ("IWM", 235), ("NVDA", 176), ("TSLA", 415), ("AAPL", 272))
_EXPIRIES: Final = ("261127", "261218", "270115", "270219", "270319", "270618", "270917", "271217")

_FUTURES: Final = (
    ("ES", "cme", 6603, 25), ("NQ", "cme", 24240, 25), ("YM", "cbot", 46245, 100), ("RTY", "cme", 2370, 10),
    ("CL", "nymex", 58, 1), ("GC", "comex", 4065, 10), ("SI", "comex", 50, 1), ("NG", "nymex", 4, 1),
    ("ZN", "cbot", 113, 1), ("ZB", "cbot", 117, 3), ("6E", "cme", 1152, 1), ("6C", "cme", 710, 5),
    ("ZC", "cbot", 425, 25), ("ZS", "cbot", 1125, 25), ("ZW", "cbot", 527, 25), ("HG", "comex", 5, 1),
)  # fmt: skip
"""Root, venue, price and tick in hundredths."""
_DELIVERIES: Final = 8
"""Quarterly months of each root; more symbols are spreads between them."""

_COINS: Final = """
BTC ETH SOL XRP DOGE ADA LTC BCH LINK AVAX DOT UNI SHIB MATIC ATOM XLM ALGO FIL NEAR APT ARB OP INJ SUI PEPE
AAVE MKR CRV COMP SNX GRT LDO RNDR IMX SAND MANA AXS CHZ ENJ BAT ZRX KNC ETC EOS XTZ ZEC DASH XMR TRX VET
HBAR
"""
_CURRENCIES: Final = (("EUR", 1.15), ("GBP", 1.31), ("AUD", 0.65), ("NZD", 0.56), ("USD", 1.0), ("CAD", 0.71),
                      ("CHF", 1.24), ("JPY", 0.0064), ("SEK", 0.105), ("NOK", 0.098), ("MXN", 0.054))  # fmt: skip
_INDICES: Final = """
SPX NDX DJI RUT VIX COMP NYA OEX XAX SOX RVX VXN VVIX MID SML HGX OSX XAU BKX DJT DJU
"""


class Listed(NamedTuple):
    """A symbol, where it starts, and how it is priced: integers in steps of 10^-`decimals`."""

    symbol: str
    price: int
    tick: int
    """The smallest change of the price."""
    decimals: int
    venue: str = ""


def listed(cluster: str, seed: int, count: int | None = None) -> list[Listed]:
    """Return the symbols of a cluster, most traded first; the same ones for the same arguments."""
    make = {
        "stocks": _stocks,
        "options": _options,
        "futures": _futures,
        "crypto": _crypto,
        "forex": _forex,
        "indices": _indices,
    }[cluster]
    wanted = count or SYMBOLS_DEFAULT[cluster]
    return list(itertools.islice(make(Random(f"{seed}/{cluster}/listed")), wanted))


def weights(count: int) -> list[float]:
    """Return each rank's share of the volume, not normalised."""
    return [(rank + _RANK_SHIFT) ** -_RANK_EXPONENT for rank in range(1, count + 1)]


def _stocks(rng: Random) -> Iterator[Listed]:
    for symbol in _tickers(rng, _STOCKS.split(), _STOCK_SUFFIXES):
        price = _PRICES.get(symbol) or min(max(rng.lognormvariate(3.3, 1.1), 0.2), 4_000)
        # Steps of 1/100 cent: trades are printed inside the cent, too.
        yield Listed(symbol, round(price * 100) * 100, 100, 4)


def _options(rng: Random) -> Iterator[Listed]:
    for width in itertools.count(1):
        for underlying, spot in _UNDERLYINGS:
            for expiry in _EXPIRIES:
                for strike, kind in itertools.product((spot - width, spot + width), "CP"):
                    if strike > 0:
                        price = max(5, round(spot * rng.uniform(0.5, 4)))
                        yield Listed(f"O:{underlying}{expiry}{kind}{strike * 1000:08d}", price, 1, 2)


def _futures(rng: Random) -> Iterator[Listed]:
    for number in itertools.count():
        apart, near = divmod(number, _DELIVERIES)
        for root, venue, price, tick in _FUTURES:
            outright = root + _delivery(near)
            if apart == 0:
                yield Listed(
                    outright, round(price * 100 * rng.uniform(0.98, 1.02)) // tick * tick, tick, 2, venue
                )
            else:
                spread = max(tick * 40, price // tick * tick)
                yield Listed(f"{outright}-{root}{_delivery(near + apart)}", spread, tick, 2, venue)


def _delivery(quarter: int) -> str:
    """Return the code of a delivery month, counted in quarters from December 2026."""
    year, month = divmod(quarter + 3, 4)
    return f"{'HMUZ'[month]}{(6 + year) % 10}"


def _crypto(rng: Random) -> Iterator[Listed]:
    known = [(coin, float(_PRICES.get(f"{coin}-USD") or rng.lognormvariate(0, 2))) for coin in _COINS.split()]
    made_up = ((coin, rng.lognormvariate(0, 2)) for coin in _tickers(rng, (), ()) if coin not in dict(known))
    values = (("USD", 1.0), ("USDT", 1.0), ("EUR", 1.15), ("GBP", 1.31), ("BTC", float(_PRICES["BTC-USD"])))
    crosses = ((coin, dollars / value, quote) for quote, value in values for coin, dollars in known)
    for coin, value, quote in itertools.chain(crosses, ((coin, dollars, "USD") for coin, dollars in made_up)):
        price = max(100, round(value * 10**8))
        if coin != quote:
            # Six significant digits, whatever a coin is worth.
            yield Listed(f"{coin}-{quote}", price, max(1, 10 ** (len(str(price)) - 6)), 8)


def _forex(_rng: Random) -> Iterator[Listed]:
    majors = [("EUR", "USD"), ("USD", "JPY"), ("GBP", "USD"), ("AUD", "USD"), ("USD", "CAD"), ("NZD", "USD")]
    value = dict(_CURRENCIES)
    pairs = itertools.chain(majors, itertools.permutations(value, 2))
    for base, quoted in dict.fromkeys(pairs):
        yield Listed(f"{base}/{quoted}", max(1000, round(value[base] / value[quoted] * 100_000)), 1, 5)


def _indices(rng: Random) -> Iterator[Listed]:
    for name in _tickers(rng, _INDICES.split(), ()):
        symbol = f"I:{name}"
        yield Listed(symbol, round((_PRICES.get(symbol) or rng.lognormvariate(6, 1.2)) * 100), 1, 2)


def _tickers(rng: Random, first: Iterable[str], suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield real names first, then made-up ones, none twice."""
    seen = set()
    for name in itertools.chain(first, _made_up(rng, suffixes)):
        if name not in seen:
            seen.add(name)
            yield name


def _made_up(rng: Random, suffixes: tuple[str, ...]) -> Iterator[str]:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    while True:
        name = "".join(rng.choices(letters, k=rng.choice((3, 3, 4, 4, 4, 4))))
        yield name + rng.choice(suffixes) if suffixes and rng.random() < 0.06 else name
