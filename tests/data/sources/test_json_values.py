"""Records of JSON cut apart wherever the blocks are cut."""

import json

from hypothesis import given
from hypothesis import strategies as st

from isogloss.data.sources.json_values import split_values
from isogloss.data.sources.records import BadRecordError

SIGNS = st.text(alphabet='"\\[]{},:ab é\n', max_size=12)
VALUES = st.lists(
    st.fixed_dictionaries({"text": SIGNS, "more": st.lists(st.dictionaries(SIGNS, SIGNS, max_size=2), max_size=2)}),
    max_size=5,
)


@given(VALUES, st.booleans(), st.sampled_from([None, 1]), st.integers(1, 9))
def test_records_come_back_however_the_blocks_are_cut(values, in_array, indent, size):
    written = json.dumps(values, indent=indent) if in_array else "\n".join(json.dumps(v, indent=indent) for v in values)
    data = written.encode()
    blocks = [data[at : at + size] for at in range(0, len(data), size)]
    lines = list(split_values(blocks, 1 << 20, in_array))
    assert [json.loads(line.content) for line in lines] == values
    assert [line.start for line in lines] == list(range(len(values)))


@given(st.binary(max_size=40), st.booleans(), st.integers(1, 9))
def test_any_bytes_are_cut_the_same_way_in_any_blocks(data, in_array, size):
    def cut(n):
        found = []
        try:
            for line in split_values([data[at : at + n] for at in range(0, len(data), n)], 20, in_array):
                found.append((line.content[:9], line.too_long))
        except BadRecordError as error:
            found.append(str(error))
        return found

    assert cut(size) == cut(len(data) or 1)
