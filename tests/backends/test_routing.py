"""Which backend runs a request, what is kept for it, and how a bad one is kept out."""

# ruff: noqa: D102 - the methods of the made-up backends are those of the protocol
from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import approxhub as ah
from approxhub.backends import (
    Convolution,
    ConvRequest,
    GemmRequest,
    ReferenceBackend,
    available_backends,
    choose,
    clear_prepared,
    use_backend,
)
from approxhub.backends import routing as routes
from approxhub.errors import BackendUnavailableError, NotFoundError, PluginError
from approxhub.ops import lut_gemm, register
from approxhub.plugins import BackendInfo, host

CPU = torch.device("cpu")


class Cheap(ReferenceBackend):
    """The reference at a price of its own, that remembers what it was asked."""

    def __init__(self, seconds=1e-9, supported=True):
        self.seconds, self.supported = seconds, supported
        self.prepared, self.ran = [], 0

    def cost(self, request):
        return self.seconds

    def supports(self, request):
        return self.supported

    def prepare(self, multiplier, device, weight_codes=None):
        self.prepared.append(multiplier.id)
        return super().prepare(multiplier, device)

    def gemm(self, a, b, prepared, dtype):
        self.ran += 1
        return super().gemm(a, b, prepared, dtype)


def request(device="cpu", **sizes):
    """A small request."""
    size = {"m": 2, "k": 3, "n": 4, **sizes}
    return GemmRequest(ah.exact(8), device=torch.device(device), dtype=torch.int32, **size)


def reasons():
    """What each backend says of itself."""
    return {info.name: reason for info, reason in available_backends()}


@pytest.fixture
def usual():
    """The backend that is chosen without any plug-in."""
    return choose(request())[0]


def test_the_reference_is_always_there():
    """Without plug-ins every request has a backend, and the reference is one."""
    assert reasons()["reference"] is None
    with use_backend("reference"):
        assert isinstance(choose(request())[1], ReferenceBackend)


def test_the_cheapest_wins(offer):
    """Of the backends that support a request, the one with the lowest cost is taken."""
    offer("one", BackendInfo("slow", "cpu", lambda: Cheap(2e-9), priority=9))
    offer("two", BackendInfo("fast", "cpu", lambda: Cheap(1e-9)))
    assert choose(request())[0] == "fast"


def test_one_that_does_not_support_a_request_is_passed_over(offer, usual):
    """supports() comes before cost()."""
    offer("one", BackendInfo("picky", "cpu", lambda: Cheap(0.0, supported=False)))
    assert choose(request())[0] == usual


def test_priority_breaks_ties(offer):
    """At equal costs the higher priority wins, whatever the order of registration."""
    low, high = (BackendInfo(n, "cpu", Cheap, priority=p) for n, p in (("aaa", 1), ("zzz", 2)))
    offer("one", low, high)
    assert choose(request())[0] == "zzz"
    host().unregister("one")
    offer("one", high, low)
    assert choose(request())[0] == "zzz"


def test_names_break_what_priority_does_not(offer):
    """At equal costs and priorities the first name wins: order of registration never decides."""
    offer("b", BackendInfo("bbb", "cpu", Cheap))
    offer("a", BackendInfo("aaa", "cpu", Cheap))
    assert choose(request())[0] == "aaa"


def test_device_types_are_kept_apart(offer, usual):
    """A backend is asked only for requests on its type of device; 'any' is asked for all."""
    offer("one", BackendInfo("card", "cuda", Cheap), BackendInfo("all", "any", lambda: Cheap(1.0)))
    assert choose(request())[0] == usual
    assert choose(request("cuda"))[0] == "card"
    assert choose(request("xla", m=10**6, k=10**4, n=10**4))[0] == "all"


def test_the_operator_runs_the_chosen_one(offer):
    """lut_gemm prepares once and runs on the backend that routing chose."""
    backend = Cheap()
    offer("one", BackendInfo("mine", "cpu", lambda: backend))
    m = ah.exact(7)  # of whose table no other test here has one under another name
    for _ in range(2):
        assert ah.matmul(torch.ones(2, 3).int(), torch.ones(3, 2).int(), m).tolist() == [[3, 3]] * 2
    assert (backend.ran, backend.prepared) == (2, [m.id])


# --- forcing ----------------------------------------------------------------------------


def test_the_environment_forces_one(offer, monkeypatch, usual):
    """APPROXHUB_BACKEND names the backend of the whole process; an empty one names none."""
    offer("one", BackendInfo("costly", "cpu", lambda: Cheap(1e9)))
    monkeypatch.setenv("APPROXHUB_BACKEND", "costly")
    assert choose(request())[0] == "costly"
    monkeypatch.setenv("APPROXHUB_BACKEND", "")
    assert choose(request())[0] == usual


def test_use_backend_forces_one(offer, monkeypatch):
    """use_backend() wins over the environment, nests, and ends with its block, raising or not."""
    offer("one", BackendInfo("x", "cpu", lambda: Cheap(1e9)))
    offer("two", BackendInfo("y", "cpu", lambda: Cheap(1e9)))
    monkeypatch.setenv("APPROXHUB_BACKEND", "x")
    with use_backend("y"):
        assert choose(request())[0] == "y"
        with use_backend("reference"):
            assert choose(request())[0] == "reference"
        with pytest.raises(ZeroDivisionError), use_backend("reference"):
            _raise(ZeroDivisionError())
        assert choose(request())[0] == "y"
    assert choose(request())[0] == "x"


def test_use_backend_holds_for_its_own_thread(offer, usual):
    """Another thread chooses for itself."""
    offer("one", BackendInfo("x", "cpu", lambda: Cheap(1e9)))
    with use_backend("x"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: choose(request())[0]).result() == usual


def test_a_forced_one_is_never_replaced(offer):
    """If the forced backend does not support a request, that is an error, not another backend."""
    offer("one", BackendInfo("picky", "cpu", lambda: Cheap(supported=False)))
    with use_backend("picky"), pytest.raises(BackendUnavailableError, match="'picky' was asked"):
        choose(request())


def test_a_forced_one_of_another_device_is_refused(offer):
    """A CUDA backend that is forced does not get operands on the CPU."""
    offer("one", BackendInfo("card", "cuda", Cheap))
    with (
        use_backend("card"),
        pytest.raises(BackendUnavailableError, match=r"exact:7s \(7s x 7s\) on cpu"),
    ):
        ah.matmul(torch.ones(2, 3).int(), torch.ones(3, 2).int(), ah.exact(7))


def test_unknown_names_are_not_found(monkeypatch):
    """A name that nobody offers is a NotFoundError that lists the known ones."""
    with pytest.raises(NotFoundError, match="'turbo'; known: cpu, reference"), use_backend("turbo"):
        pass
    monkeypatch.setenv("APPROXHUB_BACKEND", "turbo")
    with pytest.raises(NotFoundError, match="'turbo'; known: cpu, reference"):
        choose(request())


def test_nobody_supports_it(monkeypatch):
    """If no backend supports a request, the error describes the request."""
    monkeypatch.setattr(routes, "_fits", lambda info, request: False)
    with pytest.raises(BackendUnavailableError, match=r"\(2, 3\) x \(3, 4\) to torch.int32"):
        choose(request())


# --- loading ----------------------------------------------------------------------------


class NoGemm:
    """An incomplete backend."""

    def unavailable_reason(self):
        return None

    supports = cost = prepare = unavailable_reason


class NoCard(Cheap):
    """A backend without its card."""

    def unavailable_reason(self):
        return "no card of compute capability 9"


def _raise(error):
    raise error


LOADS = {
    "raises": (lambda: _raise(OSError("libfast.so: no such file")), "OSError: libfast.so"),
    "exits": (lambda: _raise(SystemExit(3)), "SystemExit: 3"),
    "none": (lambda: None, r"load\(\) returned None"),
    "incomplete": (NoGemm, "it lacks gemm"),
    "a class": (lambda: Cheap, "TypeError"),
    "no backend": (lambda: 42, "it lacks unavailable_reason, supports, cost, prepare, gemm"),
    "says no": (NoCard, "no card of compute capability 9"),
    "raises when asked": (
        lambda: type("B", (Cheap,), {"unavailable_reason": lambda s: _raise(KeyError("x"))})(),
        "KeyError: 'x'",
    ),
}


@pytest.mark.parametrize("how", LOADS)
def test_a_backend_that_does_not_load_is_unavailable(how, offer, usual):
    """Whatever load() does: a reason, another backend, and that reason when asked by name."""
    load, cause = LOADS[how]
    offer("one", BackendInfo("bad", "cpu", load))
    assert choose(request())[0] == usual
    assert reasons()["reference"] is None
    with (
        pytest.raises(BackendUnavailableError, match=f"'bad' is unavailable: .*{cause}"),
        use_backend("bad"),
    ):
        pass
    assert host().plugin_error("one") is None  # the plug-in itself is fine


def test_ctrl_c_passes_through_load(offer):
    """KeyboardInterrupt in load() interrupts."""
    offer("one", BackendInfo("bad", "cpu", lambda: _raise(KeyboardInterrupt())))
    with pytest.raises(KeyboardInterrupt):
        choose(request())


def test_a_backend_is_loaded_once(offer):
    """load() is called at the first need, once."""
    calls = []
    offer("one", BackendInfo("mine", "cpu", lambda: calls.append(1) or Cheap()))
    assert calls == []
    for _ in range(3):
        choose(request())
    assert calls == [1]


BAD_ANSWERS = {
    "supports raises": ("supports", lambda s, r: _raise(ValueError("boom")), "ValueError: boom"),
    "cost raises": ("cost", lambda s, r: _raise(ValueError("boom")), "ValueError: boom"),
    "cost exits": ("cost", lambda s, r: _raise(SystemExit()), "SystemExit"),
    "cost is nan": ("cost", lambda s, r: math.nan, r"cost\(\) returned nan"),
    "cost is None": ("cost", lambda s, r: None, "TypeError"),
}


@pytest.mark.parametrize("how", BAD_ANSWERS)
@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_a_backend_that_cannot_answer_is_left_out(how, name, offer, usual):
    """supports() or cost() that raises or is no number leaves the others, whatever the order."""
    method, answer, cause = BAD_ANSWERS[how]
    offer("one", BackendInfo(name, "cpu", type("B", (Cheap,), {method: answer})))
    assert choose(request())[0] == usual
    with pytest.raises(BackendUnavailableError, match=cause), use_backend(name):
        pass


def test_ctrl_c_passes_through_cost(offer):
    """KeyboardInterrupt in cost() interrupts."""
    broken = type("B", (Cheap,), {"cost": lambda s, r: _raise(KeyboardInterrupt())})
    offer("one", BackendInfo("bad", "cpu", broken))
    with pytest.raises(KeyboardInterrupt):
        choose(request())


@pytest.mark.parametrize("method", ["gemm", "prepare"])
def test_what_a_backend_raises_is_raised(method, offer):
    """An error of the chosen backend is raised with its name, never swallowed by another."""
    broken = type("B", (Cheap,), {method: lambda *a: _raise(ZeroDivisionError("exploded"))})
    offer("one", BackendInfo("bad", "cpu", broken))
    a = torch.ones(2, 3).int()
    with pytest.raises(PluginError, match="backend 'bad' failed: ZeroDivisionError: exploded"):
        ah.matmul(a, a.t(), ah.exact(8))


def test_a_lack_of_memory_stays_one(offer):
    """MemoryError passes as it is, so that a caller can try a smaller batch."""
    broken = type("B", (Cheap,), {"gemm": lambda *a: _raise(MemoryError())})
    offer("one", BackendInfo("bad", "cpu", broken))
    a = torch.ones(2, 3).int()
    with pytest.raises(MemoryError):
        ah.matmul(a, a.t(), ah.exact(8))


def test_a_backend_that_returns_nothing_is_named(offer):
    """None instead of a tensor is the backend's fault, and says so."""
    offer("one", BackendInfo("bad", "cpu", type("B", (Cheap,), {"gemm": lambda *a: None})))
    a = torch.ones(2, 3).int()
    with pytest.raises(PluginError, match="backend 'bad' returned NoneType"):
        ah.matmul(a, a.t(), ah.exact(8))


@pytest.mark.parametrize(
    "result", [torch.zeros(2, 3, dtype=torch.int32), torch.zeros(2, 2, dtype=torch.int64)]
)
def test_a_result_that_does_not_fit_is_refused(result, offer):
    """A wrong shape or dtype is an error that names the backend, also for compiled code."""
    offer("one", BackendInfo("bad", "cpu", type("B", (Cheap,), {"gemm": lambda *a: result})))
    with pytest.raises(PluginError, match=r"'bad' returned .* not torch\.int32 of shape"):
        ah.matmul(torch.ones(2, 3).int(), torch.ones(3, 2).int(), ah.exact(8))


def test_results_have_the_layout_that_was_promised(offer):
    """The fake kernel promises contiguous results; a backend may return any strides."""

    class Columns(Cheap):
        def gemm(self, a, b, prepared, dtype):
            return super().gemm(a, b, prepared, dtype).mT.contiguous().mT

    offer("one", BackendInfo("columns", "cpu", Columns))
    m = ah.exact(8)
    out = lut_gemm(torch.ones(2, 3).int(), torch.ones(3, 4).int(), register(m), torch.int32)
    assert out.is_contiguous()
    assert (out == 3).all()


def test_two_of_one_name_are_both_refused(offer, usual):
    """Two plug-ins with one backend's name: neither runs, and asking for it says why."""
    offer("one", BackendInfo("fast", "cpu", Cheap))
    offer("two", BackendInfo("fast", "cpu", Cheap))
    assert choose(request())[0] == usual
    with pytest.raises(PluginError, match="'fast' is offered by one and two"), use_backend("fast"):
        pass


def test_the_built_in_name_cannot_be_taken(offer):
    """A plug-in's backend called 'reference' does not replace ours."""
    offer("one", BackendInfo("reference", "cpu", lambda: Cheap(0.0)))
    with use_backend("reference"):
        assert type(choose(request())[1]) is ReferenceBackend
    assert "offered by approxhub and one" in (host().plugin_error("one") or "")


# --- convolutions ---------------------------------------------------------------------------


class Convolves(Cheap):
    """A backend with a convolution of its own, at a price of its own."""

    convolved = 0

    def __init__(self, seconds=1e-9, conv_seconds=1e-9, conv_supported=True):
        super().__init__(seconds)
        self.conv_seconds, self.conv_supported = conv_seconds, conv_supported

    def supports(self, request):
        return self.conv_supported if isinstance(request, ConvRequest) else self.supported

    def cost(self, request):
        return self.conv_seconds if isinstance(request, ConvRequest) else self.seconds

    def conv(self, x, w, prepared, dtype, convolution):
        self.convolved += 1
        c = convolution
        sides = [side for pair in reversed(c.padding) for side in pair]
        image = F.pad(x.double(), sides, value=c.pad_value)
        return F.conv2d(image, w.double(), None, c.stride, 0, c.dilation, c.groups).to(dtype)


def conv_request(groups=2, device="cpu"):
    """A small convolution."""
    c = Convolution((1, 1), ((1, 0), (0, 1)), (1, 1), groups, 3)
    shapes = (2, 2 * groups, 5, 6), (3 * groups, 2, 2, 3)
    return ConvRequest(ah.exact(8), *shapes, c, torch.device(device), torch.int32)


def convolve(groups=2):
    """That convolution through the public function, and what it must give."""
    request = conv_request(groups)
    x = torch.arange(math.prod(request.x_shape)).reshape(request.x_shape) % 100 - 50
    w = torch.arange(math.prod(request.w_shape)).reshape(request.w_shape) % 77 - 40
    out = ah.functional.conv2d(
        x, w, request.multiplier, padding=((1, 0), (0, 1)), groups=groups, pad_value=3
    )
    image = F.pad(x.double(), (0, 1, 1, 0), value=3)
    return out, F.conv2d(image, w.double(), groups=groups).to(torch.int32)


def test_a_request_knows_its_product():
    """A convolution is a product with a row for each position, and a column for each channel."""
    request = conv_request(groups=3)
    assert request.output_shape == (2, 9, 5, 5)
    gemm = request.gemm
    assert (gemm.m, gemm.k, gemm.n) == (2 * 5 * 5, 2 * 2 * 3, 3)
    assert (gemm.multiplier, gemm.device, gemm.dtype) == (
        request.multiplier, request.device, request.dtype,
    )  # fmt: skip


def test_a_backend_without_a_convolution_gets_patches(offer):
    """The core cuts patches and asks for a product of each group; prepared once."""
    backend = Cheap()
    offer("one", BackendInfo("mine", "cpu", lambda: backend))
    for _ in range(2):
        out, want = convolve(groups=3)
        assert torch.equal(out, want)
    assert (backend.ran, len(backend.prepared)) == (6, 1)


def test_a_backend_with_a_convolution_does_it(offer):
    """The whole convolution goes to conv, and nothing to gemm."""
    backend = Convolves()
    offer("one", BackendInfo("mine", "cpu", lambda: backend))
    out, want = convolve()
    assert torch.equal(out, want)
    assert (backend.convolved, backend.ran, len(backend.prepared)) == (1, 0, 1)


def test_a_convolution_that_is_not_supported_becomes_patches(offer):
    """Where conv does not support a request, its gemm does the patches."""
    backend = Convolves(conv_supported=False)
    offer("one", BackendInfo("mine", "cpu", lambda: backend))
    out, want = convolve()
    assert torch.equal(out, want)
    assert (backend.convolved, backend.ran) == (0, 2)


def test_conv_alone_is_enough(offer):
    """A backend whose gemm refuses all may still convolve."""
    backend = Convolves()
    backend.supported = False
    offer("one", BackendInfo("mine", "cpu", lambda: backend))
    with use_backend("mine"):
        out, want = convolve()
    assert torch.equal(out, want)
    assert (backend.convolved, backend.ran) == (1, 0)


def test_the_cheapest_convolution_wins(offer):
    """conv is compared by its own cost, patches by that of a product for each group."""
    slow, fast = Convolves(conv_seconds=2e-9), Convolves(seconds=9.0)
    offer("one", BackendInfo("slow", "cpu", lambda: slow))
    offer("two", BackendInfo("fast", "cpu", lambda: fast))
    assert choose(conv_request())[0] == "fast"
    assert choose(request())[0] == "slow"
    offer("three", BackendInfo("patches", "cpu", lambda: Cheap(0.0)))
    assert choose(conv_request())[0] == "fast"  # patches are to be copied
    clear_prepared()
    slow.conv_seconds = fast.conv_seconds = 1.0
    assert choose(conv_request())[0] == "patches"


def test_patches_cost_a_product_for_each_group(offer):
    """One group costs less than ten, on a backend without conv."""
    offer("one", BackendInfo("patches", "cpu", lambda: Cheap(1e-6)))
    offer("two", BackendInfo("whole", "cpu", lambda: Convolves(conv_seconds=5e-6)))
    assert choose(conv_request(groups=1))[0] == "patches"
    assert choose(conv_request(groups=10))[0] == "whole"


def test_a_forced_backend_that_cannot_convolve(offer):
    """If a forced backend supports neither the convolution nor its product, that is an error."""
    backend = Convolves(conv_supported=False)
    backend.supported = False
    offer("one", BackendInfo("picky", "cpu", lambda: backend))
    with (
        use_backend("picky"),
        pytest.raises(
            BackendUnavailableError,
            match=r"'picky' was asked.*convolution of \(2, 4, 5, 6\) with \(6, 2, 2, 3\)",
        ),
    ):
        convolve()


def test_a_forced_backend_convolves(offer):
    """A forced backend does convolutions too, whatever they cost."""
    backend = Convolves(conv_seconds=1e9)
    offer("one", BackendInfo("mine", "cpu", lambda: backend))
    assert convolve()[0].shape
    assert backend.convolved == 0
    with use_backend("mine"):
        convolve()
    assert backend.convolved == 1


@pytest.mark.parametrize("method", ["supports", "cost"])
def test_a_backend_that_cannot_answer_for_a_convolution_is_left_out(method, offer, usual):
    """supports() or cost() that knows no ConvRequest and raises leaves the others."""
    real = getattr(Convolves, method)

    def answer(self, request):
        return real(self, request) if isinstance(request, GemmRequest) else request.m

    offer("one", BackendInfo("bad", "cpu", type("B", (Convolves,), {method: answer})))
    out, want = convolve()
    assert torch.equal(out, want)
    with pytest.raises(BackendUnavailableError, match="AttributeError"), use_backend("bad"):
        pass


@pytest.mark.parametrize("method", ["conv", "prepare"])
def test_what_a_convolution_raises_is_raised(method, offer):
    """An error of conv is raised with the backend's name, never swallowed by patches."""
    broken = type("B", (Convolves,), {method: lambda *a: _raise(ZeroDivisionError("exploded"))})
    offer("one", BackendInfo("bad", "cpu", broken))
    with pytest.raises(PluginError, match="backend 'bad' failed: ZeroDivisionError: exploded"):
        convolve()


BAD_RESULTS = {
    "nothing": (None, "returned NoneType"),
    "shape": (torch.zeros(2, 6, 5, 6, dtype=torch.int32), r"not torch.int32 of shape \(2, 6, 5, 5"),
    "dtype": (torch.zeros(2, 6, 5, 5, dtype=torch.int64), "returned torch.int64"),
    "rows": (torch.zeros(50, 6, dtype=torch.int32), r"of shape \(50, 6\)"),
}


@pytest.mark.parametrize("name", BAD_RESULTS)
def test_a_convolution_that_does_not_fit_is_refused(name, offer):
    """A wrong shape or dtype, or no tensor, is an error that names the backend."""
    result, message = BAD_RESULTS[name]
    offer("one", BackendInfo("bad", "cpu", type("B", (Convolves,), {"conv": lambda *a: result})))
    with pytest.raises(PluginError, match=f"backend 'bad' .*{message}"):
        convolve()


def test_convolutions_have_the_layout_that_was_promised(offer):
    """The fake kernel promises contiguous results; a backend may return channels last."""

    class ChannelsLast(Convolves):
        def conv(self, *arguments):
            return super().conv(*arguments).to(memory_format=torch.channels_last)

    offer("one", BackendInfo("mine", "cpu", ChannelsLast))
    out, want = convolve()
    assert out.is_contiguous()
    assert torch.equal(out, want)


class Reads(Convolves):
    """Takes the padding's value from the device."""

    reads_pad = True

    def conv(self, x, w, prepared, dtype, convolution):
        self.asked = convolution
        c = replace(convolution, pad_value=int(convolution.pad))
        return super().conv(x, w, prepared, dtype, c)


class IsGivenNone(Convolves):
    """Sees no padding, for the image has it already."""

    def conv(self, x, w, prepared, dtype, convolution):
        assert convolution.pad is None
        assert convolution.padding == ((0, 0), (0, 0))
        return super().conv(x, w, prepared, dtype, convolution)


@pytest.mark.parametrize("kind", [Cheap, IsGivenNone, Reads])
def test_a_value_of_padding_on_a_device_is_not_read(kind, offer, monkeypatch):
    """A backend that takes it from there is given it; the others get an image that is padded."""
    backend = kind()
    offer("one", BackendInfo("mine", "cpu", lambda: backend))
    monkeypatch.setattr("approxhub.ops.on_host", lambda t: False)
    out, want = convolve()
    assert torch.equal(out, want)
    if kind is Reads:
        assert backend.asked.pad.item() == 3
        assert backend.asked.padding == ((1, 0), (0, 1))


# --- what is kept -------------------------------------------------------------------------


def numbered(i):
    """One of many small multipliers."""
    return ah.Multiplier.from_table([[0, i], [i, 1]], name=f"n{i}")


def test_the_prepared_cache_is_bounded(offer):
    """The 64 multipliers used last are kept prepared; older ones are prepared again."""
    backend = Cheap()
    offer("one", BackendInfo("mine", "cpu", lambda: backend))
    several = [numbered(i) for i in range(65)]
    for m in several:
        routes.prepared_for("mine", backend, m, CPU)
    assert len(backend.prepared) == len(routes._prepared) + 1 == 65
    routes.prepared_for("mine", backend, several[1], CPU)
    assert len(backend.prepared) == 65
    routes.prepared_for("mine", backend, several[0], CPU)  # pushes out several[2]
    routes.prepared_for("mine", backend, several[1], CPU)
    assert len(backend.prepared) == 66
    routes.prepared_for("mine", backend, several[2], CPU)
    assert len(backend.prepared) == 67


def test_equal_multipliers_share_what_is_prepared():
    """The cache goes by content: two ids of one table are prepared once."""
    backend = Cheap()
    first = ah.Multiplier.from_table([[0, 5], [5, 1]], name="first")
    second = ah.Multiplier.from_table([[0, 5], [5, 1]], name="second")
    made = routes.prepared_for("mine", backend, first, CPU)
    assert routes.prepared_for("mine", backend, second, CPU) is made


def test_devices_and_backends_do_not_share_what_is_prepared():
    """Each backend gets what it prepared itself, for the device at hand."""
    one, two = Cheap(), Cheap()
    m = numbered(3)
    first = routes.prepared_for("one", one, m, CPU)
    assert routes.prepared_for("two", two, m, CPU) is not first
    assert routes.prepared_for("one", one, m, torch.device("meta")) is not first
    assert (len(one.prepared), len(two.prepared)) == (2, 1)


def test_a_backend_that_replaces_another_gets_nothing_of_it(offer):
    """Registered anew under its old name, a backend is loaded anew and prepares for itself."""

    class Labelled(Cheap):
        def __init__(self, label):
            super().__init__()
            self.label = label

        def prepare(self, multiplier, device, weight_codes=None):
            return self.label, super().prepare(multiplier, device)

        def gemm(self, a, b, prepared, dtype):
            assert prepared[0] == self.label
            return super().gemm(a, b, prepared[1], dtype)

    m, ones = ah.exact(8), torch.ones(2, 2).int()
    for label in ("old", "new"):
        offer("one", BackendInfo("mine", "cpu", lambda label=label: Labelled(label)))
        assert ah.matmul(ones, ones, m).tolist() == [[2, 2], [2, 2]]
        assert choose(request())[1].label == label
        host().unregister("one")


def test_a_choice_is_made_once_for_equal_requests(offer):
    """A backend is asked once for equal requests: any other size, table or thread count is new."""
    asked = []

    class Counting(Cheap):
        def cost(self, request):
            asked.append(request)
            return super().cost(request)

    offer("one", BackendInfo("mine", "cpu", Counting))
    other = ah.Multiplier.from_table([[0, 5], [5, 1]], name="other")
    threads = torch.get_num_threads()
    clear_prepared()
    choose(request())  # loads them all, which is a change
    asked.clear()
    for _ in range(3):
        assert choose(request())[0] == "mine"
    assert len(asked) == 1
    choose(request(m=3))
    choose(GemmRequest(other, 2, 3, 4, CPU, torch.int32))
    choose(GemmRequest(ah.exact(8), 2, 3, 4, CPU, torch.int64))
    assert len(asked) == 4
    try:
        torch.set_num_threads(threads + 1)
        choose(request())
    finally:
        torch.set_num_threads(threads)
    assert len(asked) == 5


def test_a_choice_is_forgotten_when_backends_change(offer, usual, monkeypatch):
    """What comes, goes, fails or is forced is seen by the very next request."""
    offer("one", BackendInfo("mine", "cpu", Cheap))
    for _ in range(2):
        assert choose(request())[0] == "mine"
    offer("two", BackendInfo("cheaper", "cpu", lambda: Cheap(1e-12)))
    for _ in range(2):
        assert choose(request())[0] == "cheaper"
    with use_backend("mine"):
        assert choose(request())[0] == "mine"
    assert choose(request())[0] == "cheaper"
    monkeypatch.setenv("APPROXHUB_BACKEND", "mine")
    assert choose(request())[0] == "mine"
    monkeypatch.delenv("APPROXHUB_BACKEND")
    host().unregister("two")
    assert choose(request())[0] == "mine"
    choose(request())[1].seconds = math.nan  # it fails at another size, and is out for all
    assert choose(request(m=5))[0] == usual
    assert choose(request())[0] == usual


def test_clear_prepared_forgets(offer):
    """clear_prepared() frees tables and loads backends again at the next need."""
    calls = []
    offer("one", BackendInfo("mine", "cpu", lambda: calls.append(1) or Cheap()))
    ah.matmul(torch.ones(2, 2).int(), torch.ones(2, 2).int(), ah.exact(8))
    clear_prepared()
    assert not routes._prepared
    choose(request())
    assert calls == [1, 1]


def test_threads_prepare_once():
    """Many threads that need one multiplier at a time make one preparation."""
    backend, m = Cheap(), numbered(7)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: routes.prepared_for("mine", backend, m, CPU), range(32)))
    assert len({id(p) for p in made}) == len(backend.prepared) == 1
