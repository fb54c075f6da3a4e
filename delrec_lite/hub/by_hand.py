"""Public data sets that no mirror may serve: the page of their owners, the terms, and the command that reads them."""

from dataclasses import dataclass

from delrec_lite.errors import FetchError


@dataclass(frozen=True)
class ByHand:
    """A data set that a person downloads.

    Attributes:
        name: Argument of ``pull``.
        page: Where its owners serve it.
        files: To download there.
        terms: What its owners ask for.
        prepare: The command that reads the files, converted as docs/own-data.md says.
    """

    name: str
    page: str
    files: tuple[str, ...]
    terms: str
    prepare: str

    def error(self) -> FetchError:
        """Says all of this."""
        return FetchError(
            f"{self.name} is downloaded by hand: {' and '.join(self.files)} at {self.page} ({self.terms})",
            f"convert them as docs/own-data.md says, then: {self.prepare}",
        )


_TERMS = "no open licence is stated: research use, cite {papers}, do not pass it on"

BY_HAND = {
    data_set.name: data_set
    for data_set in (
        ByHand(
            "beauty",
            "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
            ("reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"),
            _TERMS.format(papers="McAuley et al. 2015 and He and McAuley 2016"),
            "delrec-lite prepare beauty --interactions reviews_Beauty_5.json.gz --items items.jsonl "
            "--columns user=reviewerID,item=asin,time=unixReviewTime --on-bad-row drop",
        ),
        ByHand(
            "steam",
            "https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data",
            ("steam_reviews.json.gz", "steam_games.json.gz"),
            _TERMS.format(papers="Kang and McAuley 2018, Wan and McAuley 2018 and Pathak et al. 2017"),
            "delrec-lite prepare steam --interactions log.jsonl --items items.jsonl "
            "--columns user=username,item=product_id,time=date --on-bad-row drop",
        ),
    )
}
