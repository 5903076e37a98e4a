"""What a program moves, by the text of its HLO."""

import jax
import jax.numpy as jnp
import pytest

from vit_jax.aot import hlo
from vit_jax.aot.compiled import part_of

PROGRAM = """HloModule jit_step, is_scheduled=true

%fused.1 (param_0: f32[100,4], param_1: s32[]) -> f32[1,4] {
  %param_0 = f32[100,4]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %constant.1 = s32[] constant(0)
  ROOT %slice.1 = f32[1,4]{1,0} dynamic-slice(%param_0, %param_1, %constant.1), dynamic_slice_sizes={1,4}
}

%fused.2 (param_0.2: f32[100,4], param_1.2: f32[1,4], param_2.2: s32[]) -> f32[100,4] {
  %param_0.2 = f32[100,4]{1,0} parameter(0)
  %param_1.2 = f32[1,4]{1,0} parameter(1)
  %param_2.2 = s32[] parameter(2)
  %constant.2 = s32[] constant(0)
  ROOT %update.2 = f32[100,4]{1,0} dynamic-update-slice(%param_0.2, %param_1.2, %param_2.2, %constant.2)
}

%body (arg: (s32[], f32[100,4])) -> (s32[], f32[100,4]) {
  %arg = (s32[], f32[100,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %all = f32[100,4]{1,0} get-tuple-element(%arg), index=1
  %row = f32[1,4]{1,0} fusion(%all, %i), kind=kLoop, calls=%fused.1, control-predecessors={%i}, metadata={op_name="jit(step)/augment/slice"}
  %next = f32[100,4]{1,0} fusion(%all, %row, %i), kind=kLoop, calls=%fused.2, metadata={op_name="jit(step)/update/set"}
  ROOT %result = (s32[], f32[100,4]{1,0}) tuple(%i, %next)
}

%condition (arg.1: (s32[], f32[100,4])) -> pred[] {
  %arg.1 = (s32[], f32[100,4]{1,0}) parameter(0)
  ROOT %less = pred[] constant(false)
}

ENTRY %main (p0: f32[100,4], p1: bf16[256,64,64]) -> f32[100,4] {
  %p0 = f32[100,4]{1,0} parameter(0)
  %p1 = bf16[256,64,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], f32[100,4]{1,0}) tuple(%zero, %p0)
  %loop = (s32[], f32[100,4]{1,0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"7"}}
  %out = f32[100,4]{1,0} get-tuple-element(%loop), index=1
  %near-start = (bf16[256,64,64]{2,1,0:T(8,128)(2,1)}, bf16[256,64,64]{2,1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) copy-start(%p1)
  %near = bf16[256,64,64]{2,1,0:T(8,128)(2,1)S(1)} copy-done(%near-start)
  %square = bf16[256,64,64]{2,1,0:T(8,128)(2,1)S(1)} multiply(%near, %near), metadata={op_name="jit(step)/jvp(VisionTransformer)/block_00/mlp/mul"}
  ROOT %sum = f32[100,4]{1,0} all-reduce(%out), replica_groups={{0,1}}, to_apply=%add, metadata={op_name="jit(step)/transpose(jvp(VisionTransformer))/block_00/attention/qkv/dot"}
}
"""  # noqa: E501 - as XLA writes it


def test_bytes_of_a_program_by_part():
    """Slices count as what they take, loops by their turns, what lies in scratch memory not at all."""
    parts = hlo.by_part(hlo.parse(PROGRAM), part_of)
    assert parts == {
        "mlp": 256 * 64 * 128 * 2,  # brought near once: rows of 64 are padded to 128
        "attention backward": 2 * 1600,
        "augment": 7 * (16 + 4 + 16),
        "update": 7 * (16 + 4 + 16),
    }


def test_scratch_memory_of_libraries_is_not_counted():
    text = """ENTRY %main (a: bf16[8,8]) -> bf16[8,8] {
  %a = bf16[8,8]{1,0} parameter(0)
  %both = (bf16[8,8]{1,0}, s8[4194304]{0}) custom-call(%a, %a), custom_call_target="__cublas$lt$matmul"
  ROOT %result = bf16[8,8]{1,0} get-tuple-element(%both), index=0
}
"""
    assert sum(one.size for one in hlo.traffic(hlo.parse(text))) == 3 * 8 * 8 * 2


def test_turns_of_a_loop_that_says_them_in_its_condition():
    """As for a TPU."""
    told = ', backend_config={"known_trip_count":{"n":"7"}}'
    condition = "  ROOT %less = pred[] constant(false)"
    said = """  %counter = s32[] get-tuple-element(%arg.1), index=0
  %end = s32[]{:T(128)} constant(7)
  ROOT %less = pred[]{:T(512)} compare(%counter, %end), direction=LT"""
    assert told in PROGRAM and condition in PROGRAM
    text = PROGRAM.replace(told, "").replace(condition, said)
    assert hlo.by_part(hlo.parse(text), part_of) == hlo.by_part(hlo.parse(PROGRAM), part_of)


def test_collectives():
    """Of two devices in the program's text, of all four where it names no group."""
    once = {"all-reduce": 1, "all-reduce bytes": 1600, "all-reduce received": 1600}
    assert hlo.collectives(hlo.parse(PROGRAM), 4) == once
    inside = PROGRAM.replace(
        "ROOT %result = (s32[]", "%sum = f32[100,4]{1,0} all-reduce(%all)\n  ROOT %result = (s32[]"
    )
    looped = {"all-reduce": 8, "all-reduce bytes": 8 * 1600, "all-reduce received": 1600 + 7 * 2400}
    assert hlo.collectives(hlo.parse(inside), 4) == looped


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("replica_groups={{0,1,2},{3,4,5}}", 3),
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", 4),
        ("replica_groups=mesh['data'=4,'fsdp'=2] {'fsdp'}", 2),
        ("replica_groups=mesh['data'=4,'fsdp'=2] {'data','fsdp'}", 8),
        ("replica_groups={}", 16),
    ],
)
def test_what_the_devices_of_a_group_receive(groups, expected):
    text = f"""ENTRY %main (a: f32[16]) -> f32[256] {{
  %a = f32[16]{{0}} parameter(0)
  ROOT %all = f32[256]{{0}} all-gather(%a), channel_id=1, {groups}, dimensions={{0}}
}}
"""
    assert hlo.collectives(hlo.parse(text), 16)["all-gather received"] == 64 * (expected - 1)


def test_a_tpus_fused_reduce_scatter():
    text = """%all-reduce-scatter.1 (a: f32[64,4], b: s32[]) -> f32[16,4] {
  %a = f32[64,4]{1,0} parameter(0)
  %b = s32[] parameter(1)
  %sum = f32[64,4]{1,0} all-reduce(%a), replica_groups=[4,4]<=[16], to_apply=%add
  ROOT %own = f32[16,4]{1,0} dynamic-slice(%sum, %b), dynamic_slice_sizes={16,4}
}

ENTRY %main (a: f32[64,4]) -> f32[16,4] {
  %a = f32[64,4]{1,0} parameter(0)
  %zero = s32[] constant(0)
  ROOT %own = f32[16,4]{1,0} fusion(%a, %zero), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
    found = hlo.collectives(hlo.parse(text), 16)
    assert found == {
        "reduce-scatter": 1,
        "reduce-scatter bytes": 64 * 16 + 4,
        "reduce-scatter received": (64 * 16 + 4) * 3 / 4,
    }


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[2,3]{1,0}", 24),
        ("pred[5]", 5),
        ("(f32[2]{0}, bf16[4]{0}, u8[])", 17),
        ("f32[]{:T(256)}", 4),
        ("bf16[3,5]{0,1:T(8,128)(2,1)}", 128 * 8 * 2),  # the axis of 3 changes fastest
        ("f32[8,128]{1,0:T(8,128)S(1)}", 0),
        ("f8e4m3fn[16]", 16),
        ("s4[3]", 2),
        ("token[]", 0),
    ],
)
def test_sizes_of_types(shape, size):
    assert hlo.shape_bytes(shape) == size


def test_a_real_program_is_read():
    """Of a matmul, its inputs and its result; whatever XLA calls them here."""
    x = jnp.ones((64, 64))
    text = jax.jit(lambda x: x @ x).lower(x).compile().as_text()
    assert sum(one.size for one in hlo.traffic(hlo.parse(text))) == pytest.approx(3 * 64 * 64 * 4, rel=0.7)
