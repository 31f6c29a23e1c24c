#include "playback.hpp"

#include <algorithm>
#include <set>

#include "errors.hpp"
#include "starts.hpp"

namespace soda {
namespace {

constexpr int64_t max_window_bytes = 64 << 20;  // tensors of single steps are made in windows of steps that fit this

}  // namespace

Playback::Playback(Bundle& bundle, const PlaybackKind& wanted, const std::function<void()>& poll)
    : kind(wanted),
      batch(wanted.batch),
      first(wanted.start.value_or(0)),
      bundle_(bundle),
      replaced_(bundle.replaced()),
      axes_{batch, batch * bundle.manifest().rows_per_sample, 1},
      cached_(wanted.play == Play::frozen && wanted.start
                  ? cached_steps(bundle.manifest(), first)
                  : std::vector<bool>(size_t(bundle.manifest().sampler.steps), wanted.play == Play::frozen)),
      window_(window_steps()) {
    const Manifest& m = bundle.manifest();
    std::vector<size_t> programs;
    for (int64_t i = first; i < m.sampler.steps; ++i)
        programs.push_back(size_t(cached_[size_t(i)] ? m.steps[size_t(i)].program : m.baseline_program));
    // engines are opened, and so checked against the manifest, before the manifest's sizes are allocated
    for (size_t program : std::set<size_t>(programs.begin(), programs.end())) {
        poll();
        bundle.step_engine(program, replaced_);
    }
    for (const auto& program : m.prepare)
        if (!is_encoder(m, program)) bundle.prepare_engine(program, replaced_);
    poll();
    const Signature step = step_signature(m, size_t(m.baseline_program));
    const Port& state = step.inputs.at("state");
    const bool uses_cache = std::find(cached_.begin(), cached_.end(), true) != cached_.end();
    const int64_t arena_bytes = uses_cache ? checked_product(m.arena.bytes, batch) : 0;
    arena_ = bundle.backend().allocate(std::max<int64_t>(1, arena_bytes));
    for (auto& each : states_) each = allocate(state);
    guidance_ = bundle.backend().allocate(4);
    noise_ = bundle.backend().allocate(state.bytes(axes_) / m.sampler.state_size);
    for (const auto& port : m.ports) ports_[port.name] = allocate(request_port(port));
    bundle.backend().reserve_writes(written_bytes());
    for (const auto& tensor : m.tensors)
        tensors_[tensor.name] = allocate(tensor_port(tensor), tensor.per_step ? window_ : 1);
    windows_.resize(size_t((m.sampler.steps + window_ - 1) / window_));
    for (const auto& program : m.prepare) {
        if (is_encoder(m, program)) continue;
        if (program.tables.empty()) once_.push_back(bind_prepare(program, 0));
        for (size_t w = 0; !program.tables.empty() && w < windows_.size(); ++w)
            windows_[w].push_back(bind_prepare(program, int64_t(w) * window_));
    }
    for (size_t i = 0; i < programs.size(); ++i) steps_.push_back(bind_step(first + int64_t(i), programs[i]));
}

void Playback::encode(size_t program) {
    auto call = encode_.find(program);
    if (call == encode_.end())
        call = encode_.emplace(program, bind_prepare(bundle_.manifest().prepare[program], 0)).first;
    call->second();
}

void Playback::prepare_request() {
    for (const Call& call : once_) call();
}

void Playback::prepare_window(int64_t i) {
    if (i == first || i % window_ == 0)
        for (const Call& call : windows_[size_t(i / window_)]) call();
}

void Playback::run_step(int64_t i) {
    prepare_window(i);
    call_of_step(i)();
}

Memory& Playback::finish(int64_t steps_done) {
    return run_finish(size_t(steps_done % 2), state_after(steps_done));
}

Memory& Playback::finish_given(const float* latents) {
    const Manifest& m = bundle_.manifest();
    if (!given_) given_ = allocate(finish_signature(m, m.finish.at(0)).inputs.at("latents"));
    given_->write(latents, given_->bytes());
    return run_finish(2, *given_);
}

Memory& Playback::run_finish(size_t which, const Memory& latents) {
    const FinishProgram& program = bundle_.manifest().finish.at(0);
    std::optional<Call>& call = finish_[which];
    if (!call) {
        const Signature signature = finish_signature(bundle_.manifest(), program);
        const auto& [name, port] = *signature.outputs.begin();
        const auto engine = bundle_.finish_engine();
        if (!result_) result_ = allocate(port);
        call.emplace(engine->bind("finish",
                                  {{"latents", view_of(latents, signature.inputs.at("latents"), axes_)}},
                                  {{name, view_of(*result_, port, axes_)}}));
    }
    (*call)();
    return *result_;
}

std::vector<float> Playback::row_of(int64_t i) const {
    const Manifest& m = bundle_.manifest();
    const auto columns = scalar_count(m);
    const auto& tables = bundle_.tables();
    const std::vector<float> rows = kind.start ? start_rows(m, tables, first)
                                               : tables.at(coefficient_table(m, kind.play == Play::frozen)).values;
    return {rows.begin() + i * columns, rows.begin() + (i + 1) * columns};
}

VideoMaker& Playback::video() {
    if (!video_) video_ = std::make_unique<VideoMaker>(bundle_, batch);
    return *video_;
}

std::unique_ptr<Memory> Playback::allocate(const Port& port, int64_t times) const {
    return bundle_.backend().allocate(checked_product(port.bytes(axes_), times));
}

int64_t Playback::window_steps() const {
    int64_t bytes = 0;
    for (const auto& tensor : bundle_.manifest().tensors)
        if (tensor.per_step && __builtin_add_overflow(bytes, tensor_port(tensor).bytes(axes_), &bytes))
            checked_product(INT64_MAX, 2);
    const int64_t steps = bundle_.manifest().sampler.steps;
    return std::clamp<int64_t>(max_window_bytes / std::max<int64_t>(1, bytes), 1, steps);
}

// What the host writes for one request.
int64_t Playback::written_bytes() const {
    const Sampler& sampler = bundle_.manifest().sampler;
    constexpr int64_t padding = 256;  // of each write
    int64_t bytes = states_[0]->bytes() + guidance_->bytes() + 2 * padding;
    if (sampler.stochastic) bytes += checked_product(noise_->bytes() + padding, sampler.steps);
    if (kind.play == Play::adaptive)  // a row for each step, while the signals of the one before it are waited for
        bytes += checked_product(bundle_.row_bytes("coefficients") + padding, sampler.steps);
    for (const auto& [name, memory] : ports_) bytes += memory->bytes() + padding;
    return bytes;
}

// Rows `row` and on of what lies in memory: a port without a window axis is one of them.
View Playback::view_of(const Memory& memory, const Port& port, const Axes& axes, int64_t row) const {
    Port one = port;
    if (port.shape[0] == window_axis) one.shape.erase(one.shape.begin());
    return {&memory, row * one.bytes(axes), port.dtype, port.at(axes)};
}

const Memory& Playback::place_of(const std::string& name) const {
    const auto tensor = tensors_.find(name);
    return tensor != tensors_.end() ? *tensor->second : *ports_.at(name);
}

// For the window of steps that begins at `first` where the program has tables.
Call Playback::bind_prepare(const PrepareProgram& program, int64_t first) {
    const Signature signature = bundle_.signature_of(program);
    Axes axes = axes_;
    axes.window = std::min(window_, bundle_.manifest().sampler.steps - first);
    Views inputs, outputs;
    for (const auto& [name, port] : signature.inputs) {
        const bool table = std::find(program.tables.begin(), program.tables.end(), name) != program.tables.end();
        inputs.emplace(name, view_of(table ? bundle_.table(name) : place_of(name), port, axes, table ? first : 0));
    }
    for (const auto& [name, port] : signature.outputs) outputs.emplace(name, view_of(place_of(name), port, axes));
    const std::string steps = program.tables.empty() ? "" : say(" of steps ", first, "..", first + axes.window - 1);
    return bundle_.prepare_engine(program, replaced_)->bind("prepare" + steps, inputs, outputs);
}

const Memory& Playback::coefficients() {
    const bool adaptive = kind.play == Play::adaptive;
    if (adaptive && !own_rows_) own_rows_ = bundle_.backend().allocate(bundle_.row_bytes("coefficients"));
    if (!adaptive && !kind.start)
        return bundle_.table(coefficient_table(bundle_.manifest(), kind.play == Play::frozen));
    if (!own_rows_) {
        const std::vector<float> rows = start_rows(bundle_.manifest(), bundle_.tables(), first);
        own_rows_ = bundle_.backend().allocate(int64_t(rows.size()) * 4);
        own_rows_->write(rows.data(), own_rows_->bytes());
    }
    return *own_rows_;
}

void Playback::write_row(const float* row) {
    own_rows_->write(row, own_rows_->bytes());
}

Call Playback::bind_step(int64_t index, size_t program) {
    const Manifest& m = bundle_.manifest();
    const Program& used = m.programs[program];
    const Step& step = m.steps[size_t(index)];
    std::map<std::string, std::pair<const Memory*, int64_t>> places = {
        {"state", {states_[index % 2].get(), 0}},
        {"state_out", {states_[(index + 1) % 2].get(), 0}},
        {"guidance", {guidance_.get(), 0}},
        {"noise", {noise_.get(), 0}},
        {"coefficients",
         {&coefficients(), kind.play == Play::adaptive ? 0 : index * bundle_.row_bytes("coefficients")}}};
    const bool cached = cached_[size_t(index)];
    for (size_t i = 0; cached && i < used.reads.size(); ++i)
        places["cache." + used.reads[i].text] = {arena_.get(), step.read_offsets[i] * batch};
    for (size_t i = 0; cached && i < used.writes.size(); ++i)
        places["cache_out." + used.writes[i].text] = {arena_.get(), step.write_offsets[i] * batch};
    for (const auto& [name, memory] : ports_) places[name] = {memory.get(), 0};
    for (const auto& tensor : m.tensors)
        places[tensor.name] = {tensors_.at(tensor.name).get(),
                               tensor.per_step ? index % window_ * tensor_port(tensor).bytes(axes_) : 0};
    const Signature signature = step_signature(m, program);
    const auto views_of = [&](const Ports& ports) {
        Views views;
        for (const auto& [name, port] : ports) {
            const auto& [memory, offset] = places.at(name);
            views.emplace(name, View{memory, offset, port.dtype, port.at(axes_)});
        }
        return views;
    };
    return bundle_.step_engine(program, replaced_)
        ->bind(say("step ", index), views_of(signature.inputs), views_of(signature.outputs));
}

}  // namespace soda
