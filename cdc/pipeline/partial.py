"""The net effect of a run whose images lack columns (`binlog_row_image` MINIMAL, NOBLOB, FULL_NODUP).

The images of a key are kept as a chain, newest last, of those that still have a say: a column's value is that of the
last image that has the column. A row that was inserted in the run is whole (what its INSERT does not name has the
column's default), and so is one of which the images together have every column; it becomes an upsert. Of any other
row some columns are only at the sink: it becomes a partial update. docs/decisions/0012 says which image holds what.

A partial update that moves a key (`old_keys`) cannot be a delete and an upsert. So that the sink may apply deletes,
updates and upserts in turn, and the updates in any order, no key that a partial update moves to may be another image's
in the same `ChangeBatch`: where it is, the changes so far are handed over first, as a batch of their own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from cdc.errors import InvariantBroken, UnsupportedData
from cdc.model import ChangeBatch, Operation, PartialUpdate, RowBatch, TableDefinition, ValueKind
from cdc.pipeline.compactor import OPERATION_NAMES, check_batches, compact, key_values
from cdc.pipeline.defaults import default_value

__all__ = ["net_changes"]

_INSERT, _BEFORE, _AFTER, _DELETE = (int(operation) for operation in Operation)


def net_changes(
    definition: TableDefinition,
    key: tuple[str, ...],
    batches: Sequence[RowBatch],
    *,
    wanted: Collection[str] | None = None,
    may_lack_rows: bool = False,
) -> Iterator[ChangeBatch]:
    """Fold `batches` (one table, stream order) into changes to apply one after the other; one, but for moved keys.

    Args:
        wanted: the columns whose values matter, the key's among them; None for all.
        may_lack_rows: the table is catching up with its load, and the sink may hold rows that are newer than these
            images, or lack rows that these images change.
    Raises:
        UnsupportedData: the images do not say what row or value they mean (table, column and hint say which).
        InvariantBroken: there is no key, or a batch is not what the model says.
    """
    if all(batch.shape_index is None for batch in batches):
        yield replace(compact(definition, key, batches), may_lack_rows=may_lack_rows)
        return
    check_batches(definition, key, batches)
    names = frozenset(column.name for column in definition.columns if wanted is None or column.name in wanted)
    yield from _Fold(definition, key, tuple(batches), names, may_lack_rows).changes()


# ---------------------------------------------------------------- rows as chains of images


@dataclass(slots=True, eq=False)
class _Chain:
    """Which columns each image of a row gives, oldest image first; no column twice. Bits: `_Fold`.

    `_Fold._chain` makes one of each kind, so that they can be told apart as objects. `is_born`: was the row inserted in
    this run? Then what no image gives is the column's default. `has`: all that is given. `longer`: by what a further
    image has, the chain with that image, and which images of this one it keeps.
    """

    gives: tuple[int, ...]
    is_born: bool
    has: int
    longer: dict[int, tuple[_Chain, tuple[int, ...]]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Row:
    """A row that exists after the images so far. Not changed once it is made.

    `places` are the images of its chain, `last` the one that has its key, by number in the run. `origin` is its key at
    the sink before these images and an image that has that key; None where the row will be written whole.
    """

    chain: _Chain
    places: tuple[int, ...]
    last: int
    origin: tuple[Any, int] | None


@dataclass(slots=True)
class _Segment:
    """What is folded so far and not handed over."""

    live: dict[Any, _Row] = field(default_factory=dict)
    gone: dict[Any, int] = field(default_factory=dict)
    left: dict[Any, int] = field(default_factory=dict)
    """Keys that partial updates have moved away from, with an image that has each."""
    alike: set[Any] | None = None
    """Every key met, as `_alike` sees it; None while nobody has asked."""
    counts: Counter[int] = field(default_factory=Counter)


class _Fold:
    """The fold of one run on one table."""

    def __init__(
        self,
        definition: TableDefinition,
        key: tuple[str, ...],
        batches: tuple[RowBatch, ...],
        wanted: frozenset[str],
        may_lack_rows: bool,
    ) -> None:
        self._definition = definition
        self._key = key
        self._batches = batches
        self._may_lack_rows = may_lack_rows
        columns = [column.name for column in definition.columns if column.name in wanted and column.name not in key]
        # Of a chain: a bit a column that is not the key's, and one for an image that has the key itself.
        self._bits = {name: 1 << index for index, name in enumerate(columns)}
        self._has_key = 1 << len(columns)
        self._all = self._has_key - 1
        for batch in batches:
            _check_pairs(batch)
        self._keys = [[_whole_keys(batch, name) for name in key] for batch in batches]
        self._starts = [0]
        for batch in batches:
            self._starts.append(self._starts[-1] + batch.row_count)
        self._chains: dict[tuple[tuple[int, ...], bool], _Chain] = {}
        self._no_images = self._chain((), is_born=False)
        self._arrays: dict[str, pa.Array] = {}
        self._is_alike_possible = any(
            definition.column(name).kind in (ValueKind.TEXT, ValueKind.FLOAT, ValueKind.DOUBLE) for name in key
        )

    def changes(self) -> Iterator[ChangeBatch]:
        """Fold everything."""
        segment = _Segment()
        for place, images in self._images():
            if not self._take(segment, place, images):
                yield self._change(segment)
                segment = _Segment()
                if not self._take(segment, place, images):
                    raise InvariantBroken(f"an image of {self._definition.name} cannot be folded by itself")
        yield self._change(segment)

    # ------------------------------------------------------------ images

    def _images(self) -> Iterator[tuple[int, tuple[tuple[int, Any, int], ...]]]:
        """An image, or an update's two, as (operation, key, what it has); and the number of the first."""
        for batch, start, arrays in zip(self._batches, self._starts, self._keys, strict=False):
            operations = batch.operation.to_pylist()
            keys = key_values(self._definition, self._key, arrays)
            has = self._what_images_have(batch)
            row, row_count = 0, batch.row_count
            while row < row_count:
                one = (operations[row], keys[row], has[row])
                if operations[row] == _BEFORE:
                    yield start + row, (one, (_AFTER, keys[row + 1], has[row + 1]))
                    row += 2
                else:
                    yield start + row, (one,)
                    row += 1

    def _what_images_have(self, batch: RowBatch) -> list[int]:
        whole = self._all | self._has_key
        if batch.shape_index is None:
            return [whole] * batch.row_count
        self._check_generated(batch)
        shapes = []
        for absent in batch.shapes:
            has = sum(bit for name, bit in self._bits.items() if name not in absent)
            shapes.append(has | (self._has_key if absent.isdisjoint(self._key) else 0))
        return [shapes[index] for index in batch.shape_index.to_pylist()]

    def _check_generated(self, batch: RowBatch) -> None:
        """MariaDB logs no VIRTUAL column after an update, whether or not it is another value now."""
        if batch.definition.flavor != "mariadb" or batch.shape_index is None:
            return
        for column in batch.definition.columns:
            lacking = {index for index, absent in enumerate(batch.shapes) if column.name in absent}
            if not column.is_generated or column.name not in self._bits or not lacking:
                continue
            for operation, shape in zip(batch.operation.to_pylist(), batch.shape_index.to_pylist(), strict=True):
                if operation == _AFTER and shape in lacking:
                    raise self._generated_is_absent(column.name)

    def _take(self, segment: _Segment, place: int, images: tuple[tuple[int, Any, int], ...]) -> bool:
        """Take in a change. False, and nothing is changed, where it has to wait for what is folded so far."""
        operation, key, has = images[0]
        if operation == _BEFORE:
            if not self._take_update(segment, place, key, has, *images[1][1:]):
                return False
            operation = _AFTER
        elif operation == _INSERT:
            self._forget(segment, key)
            segment.live[key] = _Row(self._chain((has,), is_born=True), (place,), place, None)
        else:
            self._forget(segment, key)
            segment.gone[key] = place
        segment.counts[operation] += 1
        if segment.alike is not None:
            segment.alike.update(_alike(image[1]) for image in images)
        return True

    def _forget(self, segment: _Segment, key: Any) -> None:
        """The row there is none any more, neither here nor at the sink."""
        row = segment.live.pop(key, None)
        if row is not None and row.origin is not None:
            segment.gone[row.origin[0]] = row.origin[1]

    def _take_update(self, segment: _Segment, place: int, key: Any, had: int, new_key: Any, has: int) -> bool:
        before = segment.live.get(key)
        row = self._updated(before, place, key, had, has)
        if before is None and row.origin is not None and key in segment.gone:
            raise self._unsupported(
                "an update, which does not log the whole row, of a row that has been deleted",
                f"run `cdc snapshot {self._definition.name}`",
            )
        if row.origin is not None and new_key != key:
            if self._is_met(segment, new_key):
                return False
            segment.left[key] = place
        segment.live.pop(key, None)
        if row.origin is None:
            if before is not None and before.origin is not None and before.origin[0] != new_key:
                segment.gone[before.origin[0]] = before.origin[1]
            if new_key != key:
                segment.gone[key] = place
        segment.live[new_key] = row
        return True

    def _updated(self, before: _Row | None, place: int, key: Any, had: int, has: int) -> _Row:
        """The row after an update. Where its two images have all columns, whatever was before counts no more."""
        chain = self._no_images
        places: tuple[int, ...] = ()
        origin: tuple[Any, int] | None = (key, place)
        if (had | has) & self._all == self._all:
            if has & self._all != self._all:
                chain, places = self._extend(chain, places, had, place)
        elif before is not None:
            chain, places = before.chain, before.places
            origin = before.origin
        chain, places = self._extend(chain, places, has, place + 1)
        is_whole = chain.is_born or chain.has & self._all == self._all
        return _Row(chain, places, place + 1, None if is_whole else origin)

    def _extend(self, chain: _Chain, places: tuple[int, ...], has: int, place: int) -> tuple[_Chain, tuple[int, ...]]:
        """Put an image after a chain; those that have no say then are dropped."""
        found = chain.longer.get(has)
        if found is None:
            left = [gives & ~has & self._all for gives in chain.gives]
            kept = tuple(index for index, gives in enumerate(left) if gives)
            gives = (*(left[index] for index in kept), has)
            found = chain.longer[has] = self._chain(gives, is_born=chain.is_born), kept
        longer, kept = found
        if not kept:
            return longer, (place,)
        return longer, (*(places[index] for index in kept), place)

    def _chain(self, gives: tuple[int, ...], *, is_born: bool) -> _Chain:
        """The one chain of that kind."""
        chain = self._chains.get((gives, is_born))
        if chain is None:
            chain = self._chains[gives, is_born] = _Chain(gives, is_born, sum(gives))
        return chain

    def _is_met(self, segment: _Segment, key: Any) -> bool:
        """Has some image of the segment this key, or one that a server may take for equal?"""
        if key in segment.live or key in segment.gone or key in segment.left:
            return True
        if not self._is_alike_possible:
            return False
        if segment.alike is None:
            segment.alike = {_alike(met) for some in (segment.live, segment.gone, segment.left) for met in some}
        looks = _alike(key)
        return looks in segment.alike or (bool(segment.alike) and (looks is None or None in segment.alike))

    # ------------------------------------------------------------ what comes out

    def _change(self, segment: _Segment) -> ChangeBatch:
        whole: list[int] = []
        groups: dict[tuple[_Chain, bool], list[_Row]] = {}
        for key, row in segment.live.items():
            if row.origin is None and row.chain.gives == (self._all | self._has_key,):
                whole.append(row.last)
                continue
            is_moved = row.origin is not None and row.origin[0] != key
            if is_moved and self._may_lack_rows:
                raise self._moved_while_loading()
            groups.setdefault((row.chain, is_moved), []).append(row)
        composed: list[pa.RecordBatch] = []
        updates: dict[tuple[tuple[str, ...], bool], list[tuple[pa.RecordBatch, pa.RecordBatch | None]]] = {}
        for (chain, is_moved), rows in groups.items():
            images = self._compose(chain, rows)
            if rows[0].origin is None:
                composed.append(images)
                continue
            columns = self._named(chain.has, is_moved)
            if columns:
                updates.setdefault((columns, is_moved), []).append((images, self._origins(rows) if is_moved else None))
        # What the sink has under a key that an update moves a row from is that row, not one that came and went since.
        moved = {row.origin[0] for row in segment.live.values() if row.origin is not None}
        # But a load may have read it there, wherever it was on its way.
        every = {**segment.left, **segment.gone} if self._may_lack_rows else segment.gone
        gone = [place for key, place in every.items() if key not in segment.live and key not in moved]
        batches, upserts, deletes = self._batches, self._selections(whole), self._selections(gone)
        if composed:
            batch = _batch_of(self._definition, _joined(composed))
            batches = (*batches, batch)
            upserts = (*upserts, pa.array(range(batch.row_count), pa.int32()))
            deletes = (*deletes, pa.array([], pa.int32()))
        return ChangeBatch(
            definition=self._definition,
            key=self._key,
            batches=batches,
            upserts=upserts,
            deletes=deletes,
            counts={OPERATION_NAMES[Operation(operation)]: count for operation, count in segment.counts.items()},
            updates=tuple(
                PartialUpdate(
                    columns,
                    _joined([images for images, _ in parts]),
                    _joined([old for _, old in parts if old is not None]) if is_moved else None,
                )
                for (columns, is_moved), parts in updates.items()
            ),
            may_lack_rows=self._may_lack_rows,
        )

    def _named(self, has: int, is_moved: bool) -> tuple[str, ...]:
        return tuple(
            column.name
            for column in self._definition.columns
            if (is_moved if column.name in self._key else has & self._bits.get(column.name, 0))
        )

    def _selections(self, places: list[int]) -> tuple[pa.Int32Array, ...]:
        places.sort()
        starts = self._starts
        cuts = [bisect_left(places, start) for start in starts]
        return tuple(
            pa.array([place - start for place in places[first:last]], pa.int32())
            for start, first, last in zip(starts, cuts, cuts[1:], strict=False)
        )

    def _compose(self, chain: _Chain, rows: list[_Row]) -> pa.RecordBatch:
        """The rows of one chain, column by column out of the images that give them."""
        last = pa.array([row.last for row in rows], pa.int64())
        given = [pa.array([row.places[index] for row in rows], pa.int64()) for index in range(len(chain.gives))]
        arrays = []
        for column in self._definition.columns:
            if column.name in self._key:
                arrays.append(self._key_array(column.name).take(last))
                continue
            bit = self._bits.get(column.name, 0)
            index = next((index for index, gives in enumerate(chain.gives) if gives & bit), None)
            if index is not None:
                arrays.append(self._array(column.name).take(given[index]))
            elif chain.is_born and bit:
                arrays.append(pa.repeat(default_value(self._definition, column), len(rows)))
            else:
                arrays.append(pa.nulls(len(rows), column.arrow_type))
        return pa.RecordBatch.from_arrays(arrays, schema=self._definition.arrow_schema)

    def _origins(self, rows: list[_Row]) -> pa.RecordBatch:
        places = pa.array([row.origin[1] for row in rows if row.origin is not None], pa.int64())
        return pa.RecordBatch.from_arrays([self._key_array(name).take(places) for name in self._key], list(self._key))

    def _array(self, name: str) -> pa.Array:
        return self._cached(name, lambda: [batch.images.column(name) for batch in self._batches])

    def _key_array(self, name: str) -> pa.Array:
        index = self._key.index(name)
        return self._cached(name, lambda: [arrays[index] for arrays in self._keys])

    def _cached(self, name: str, find: Callable[[], list[pa.Array]]) -> pa.Array:
        if name not in self._arrays:
            arrays = find()
            self._arrays[name] = arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)
        return self._arrays[name]

    # ------------------------------------------------------------ what cannot be folded

    def _unsupported(self, problem: str, hint: str) -> UnsupportedData:
        table = str(self._definition.name)
        return UnsupportedData(f"{table}: {problem}", table=table, hint=hint)

    def _generated_is_absent(self, column: str) -> UnsupportedData:
        error = self._unsupported(
            f"an update does not log the generated column {column}, which may have changed (binlog_row_image is not "
            "FULL in the writer's session)",
            "make the column STORED, or exclude it, or SET GLOBAL binlog_row_image=FULL on the source and reconnect "
            f"the writers; then run `cdc snapshot {self._definition.name}`",
        )
        error.column = column
        return error

    def _moved_while_loading(self) -> UnsupportedData:
        return self._unsupported(
            "a key was changed while the table was being loaded, by an update that does not log the whole row",
            "the load may have missed that row: run "
            f"`cdc snapshot {self._definition.name}` while nobody changes keys, or SET GLOBAL binlog_row_image=FULL "
            "on the source and reconnect the writers first",
        )


def _check_pairs(batch: RowBatch) -> None:
    """Raises InvariantBroken for an operation that is none, and for half of an update."""
    usual = frozenset({_INSERT, _BEFORE, _DELETE})
    expected = usual
    for row, operation in enumerate((*batch.operation.to_pylist(), None)):
        if operation not in expected and (operation is not None or expected is not usual):
            raise InvariantBroken(f"image {row} of a batch of {batch.definition.name} has the operation {operation}")
        expected = frozenset({_AFTER}) if operation == _BEFORE else usual


def _whole_keys(batch: RowBatch, name: str) -> pa.Array:
    """A key column for all images of a batch: an after image's from its before image, an INSERT's default.

    Raises UnsupportedData where an image of a row that was there does not have it.
    """
    array = batch.images.column(name)
    lacking = {index for index, absent in enumerate(batch.shapes) if name in absent}
    if batch.shape_index is None or not lacking:
        return array
    takes = list(range(batch.row_count))
    has_default = False
    for row, (operation, shape) in enumerate(
        zip(batch.operation.to_pylist(), batch.shape_index.to_pylist(), strict=True)
    ):
        if shape not in lacking:
            continue
        if operation == _AFTER:
            takes[row] = row - 1
        elif operation == _INSERT:
            takes[row] = batch.row_count
            has_default = True
        else:
            raise _key_is_absent(batch, name, batch.shapes[shape])
    if has_default:
        default = default_value(batch.definition, batch.definition.column(name))
        array = pa.concat_arrays([array, pa.repeat(default, 1)])
    return array.take(pa.array(takes, pa.int64()))


def _key_is_absent(batch: RowBatch, name: str, absent: frozenset[str]) -> UnsupportedData:
    definition = batch.definition
    present = ", ".join(column.name for column in definition.columns if column.name not in absent)
    return UnsupportedData(
        f"{definition.name}: the image of a changed row does not hold {name}, by which its rows are told apart "
        f"(binlog_row_image is not FULL in the writer's session); it holds {present or 'nothing'}",
        table=str(definition.name),
        column=name,
        hint=f"take what it holds for the key (tables.overrides, primary_key), or SET GLOBAL binlog_row_image=FULL on "
        f"the source and reconnect the writers; then run `cdc snapshot {definition.name}`",
    )


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    columns = [pa.concat_arrays([batch.column(index) for batch in batches]) for index in range(batches[0].num_columns)]
    return pa.RecordBatch.from_arrays(columns, schema=batches[0].schema)


def _batch_of(definition: TableDefinition, images: pa.RecordBatch) -> RowBatch:
    count = images.num_rows
    return RowBatch(
        definition=definition,
        operation=pa.repeat(pa.scalar(_INSERT, pa.uint8()), count),
        transaction_index=pa.repeat(pa.scalar(0, pa.uint32()), count),
        images=images,
    )


# ---------------------------------------------------------------- keys that a server may take for equal

# Letters that are one to some collation: Lithuanian, Swedish.
_ALIKE = str.maketrans("yw", "iv")
# The bits of -0.0, as numbers.
_MINUS_ZERO = (-(1 << 63), -(1 << 31))


def _alike(key: Any) -> Any:
    """The same for all keys that some collation takes for equal; None where that cannot be said."""
    if isinstance(key, str):
        if not (key.isascii() and (key.isprintable() or not key)):
            return None
        return key.rstrip(" ").lower().translate(_ALIKE)
    if isinstance(key, tuple):
        parts = tuple(map(_alike, key))
        return None if any(part is None for part in parts) else parts
    return 0 if key in _MINUS_ZERO else key
