"""Files of `torch.save` written by hand, operation by operation, by the description of the containers."""

import io
import struct
import zipfile

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def value(given):
    """Plain values; bytes are operations already."""
    if isinstance(given, bytes):
        return given
    if given is None or isinstance(given, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[given]
    if isinstance(given, int):
        return b"\x8a\x09" + given.to_bytes(9, "little", signed=True)
    if isinstance(given, float):
        return b"G" + struct.pack(">d", given)
    if isinstance(given, str):
        return b"X" + struct.pack("<I", len(given.encode())) + given.encode()
    if isinstance(given, tuple):
        return b"(" + b"".join(map(value, given)) + b"t"
    if isinstance(given, list):
        return b"](" + b"".join(map(value, given)) + b"e"
    return b"}(" + b"".join(value(key) + value(inner) for key, inner in given.items()) + b"u"


def binary(content):
    """Bytes as a value, as protocol 3 has them."""
    return b"B" + struct.pack("<I", len(content)) + content


def call(function, *arguments):
    return function + value(arguments) + b"R"


def tensor(key, count, size, stride, offset=0, kind="Float"):
    """A tensor of the storage `key` of `count` elements."""
    storage = value(("storage", name("torch", f"{kind}Storage"), key, "cuda:0", count)) + b"Q"
    hooks = call(name("collections", "OrderedDict"))
    return call(name("torch._utils", "_rebuild_tensor_v2"), storage, offset, size, stride, False, hooks)


def pickled(given):
    return b"\x80\x02" + value(given) + b"."


def zipped(given, storages=None, **members):
    """The container since PyTorch 1.6, of storages' bytes by key, with further members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("net/data.pkl", pickled(given))
        for key, content in (storages or {}).items():
            archive.writestr(f"net/data/{key}", content)
        for member, content in members.items():
            archive.writestr(f"net/{member}", content)
    return buffer.getvalue()


def old(given, storages, size=4):
    """The container before PyTorch 1.6, of storages' bytes by key and elements of `size` bytes."""
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [MAGIC, pickled(1001), pickled(facts), pickled(given), pickled(list(storages))]
    return b"".join([*parts, *(struct.pack("<q", len(b) // size) + b for b in storages.values())])
