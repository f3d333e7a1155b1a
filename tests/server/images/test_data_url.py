"""Images that stand in a request as base64."""

import base64
from urllib.request import urlopen

import pytest

from edgephi.server.images.data_url import bytes_of_base64, bytes_of_data_url
from edgephi.server.refusal import Refusal

DATA = bytes(range(256)) * 3
TEXT = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    "head",
    [
        "data:image/png;base64",
        "data:image/svg+xml;base64",
        "DATA:IMAGE/JPEG;BASE64",
        "data:;base64",
        "data:application/octet-stream;base64",
        "data:image/jpeg;charset=utf-8;name=a.jpg;base64",
    ],
)
def test_a_data_url_is_read_as_pythons_own_reader_does(head: str) -> None:
    with urlopen(f"data:{head[5:].lower()},{TEXT}") as response:
        assert bytes_of_data_url(f"{head},{TEXT}", "x") == response.read() == DATA


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:,",
        "data:,hello",
        "data:image/png,AAAA",
        f"data:image/png;base64{TEXT}",
        "data:image/png;base64,",
        "data:image/png;base64,AAA",
        "data:image/png;base64,AAAA!",
        "data:image/png;base64,ÄÖÜß",
        "data:image/png;base64,data:image/png;base64,AAAA",
        f"data:text/html;base64,{TEXT}",
        f"data:video/mp4;base64,{TEXT}",
        f"data:image/png;{'a=b;' * 1000}base64,{TEXT}",
        "data:" + ";" * 100_000 + "base64,AAAA",
    ],
    ids=lambda url: url[:30],
)
def test_others_are_refused_where_they_stand(url: str) -> None:
    with pytest.raises(Refusal) as caught:
        bytes_of_data_url(url, "messages[0].content[1].image_url.url")
    assert caught.value.status == 400
    assert caught.value.error.error.param == "messages[0].content[1].image_url.url"
    assert len(caught.value.error.error.message) < 200


def test_base64_may_have_line_breaks() -> None:
    broken = base64.encodebytes(DATA).decode()
    assert "\n" in broken
    assert bytes_of_base64(broken, "x") == bytes_of_base64(broken.replace("\n", "\r\n "), "x") == DATA
