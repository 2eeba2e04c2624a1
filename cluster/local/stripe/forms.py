"""Form bodies and query strings with brackets, as Stripe's SDKs write them.

``metadata[order_id]=o_1&line_items[0][quantity]=2&expand[]=data.x`` becomes nested dictionaries; the
members of a list are keyed by their index (``parameters.listed`` orders them). Refuses bodies that are
too large, too deep, not UTF-8, or that use one name both as a value and as a group.
"""

from typing import TypeAlias, Union
from urllib.parse import parse_qsl

from cluster.local.stripe.refusals import RefusedError, invalid

BODY_BYTES_MAX = 262_144  # a Checkout Session of 100 lines with long descriptions fits
FIELDS_MAX = 2_000  # 100 line items of 20 fields
DEPTH_MAX = 6  # line_items[0][price_data][product_data][metadata][key]
NAME_CHARS_MAX = 256  # longer than any parameter of the API, metadata keys included

Tree: TypeAlias = dict[str, Union[str, "Tree"]]
Pairs: TypeAlias = list[tuple[str, str]]


def parse_pairs(encoded: bytes) -> Pairs:
    """Decode ``application/x-www-form-urlencoded``; the order of the fields is kept.

    Raises:
        RefusedError: 400 for what is not UTF-8 or has too many fields, 413 for what is too large.
    """
    if not encoded:
        return []
    if len(encoded) > BODY_BYTES_MAX:
        raise RefusedError(413, f"The request is larger than {BODY_BYTES_MAX} bytes.")
    try:
        return parse_qsl(
            encoded.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX
        )
    except ValueError:
        raise invalid(
            f"The request is not an ASCII form of UTF-8 values with at most {FIELDS_MAX} fields."
        ) from None


def to_tree(pairs: Pairs) -> Tree:
    """Nest bracketed names.

    Raises:
        RefusedError: 400 for malformed, too deep or contradictory names.
    """
    tree: Tree = {}
    for name, value in pairs:
        if "[" not in name:
            if isinstance(tree.get(name), dict):
                raise _malformed(name)
            tree[name] = value
        else:
            _nest(tree, name, value)
    return tree


def _nest(tree: Tree, name: str, value: str) -> None:
    if len(name) > NAME_CHARS_MAX or name[-1] != "]":
        raise _malformed(name)
    first, rest = name[:-1].split("[", 1)
    path = [first, *rest.split("][")]
    if len(path) > DEPTH_MAX or not first:
        raise _malformed(name)
    node = tree
    for key in path[:-1]:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise _malformed(name)
        node = child
    last = path[-1] or str(len(node))  # ``expand[]=`` appends
    if isinstance(node.get(last), dict):
        raise _malformed(name)
    node[last] = value


def _malformed(name: str) -> RefusedError:
    return invalid(f"Invalid parameter name: {name[:NAME_CHARS_MAX]}", name[:NAME_CHARS_MAX])
