#include "lora_names.hpp"

#include <algorithm>
#include <set>

#include "errors.hpp"

namespace soda {
namespace {

using Pairs = std::vector<std::pair<std::string, std::string>>;

const std::vector<std::string> wrappers = {"base_model.model.", "lycoris_"};
const Pairs prefixes = {{"lora_unet_", ""},
                        {"lora_transformer_", ""},
                        {"unet.", ""},
                        {"transformer.", ""},
                        {"model.diffusion_model.", ""},
                        {"diffusion_model.", ""},
                        {"text_encoder.", "text_encoder"},
                        {"text_encoder_2.", "text_encoder_2"},
                        {"text_encoder_3.", "text_encoder_3"},
                        {"lora_te_", "text_encoder"},
                        {"lora_te1_", "text_encoder"},
                        {"lora_te2_", "text_encoder_2"},
                        {"lora_te3_", "text_encoder_3"}};
const std::string clip = "text_model_";  // before the names of CLIP's text model, by version of transformers

// Blocks in diffusers and in the first repository of FLUX.1 (double, single), SD3 (joint) and Wan, and layers in both.
// Layers of one name there are one matrix, its rows in this order.
struct Renamed {
    std::string own, first;
    Pairs layers;
};
const std::vector<Renamed> blocks = {
    {"transformer_blocks",
     "double_blocks",
     {{"attn.to_q", "img_attn.qkv"},
      {"attn.to_k", "img_attn.qkv"},
      {"attn.to_v", "img_attn.qkv"},
      {"attn.add_q_proj", "txt_attn.qkv"},
      {"attn.add_k_proj", "txt_attn.qkv"},
      {"attn.add_v_proj", "txt_attn.qkv"},
      {"attn.to_out.0", "img_attn.proj"},
      {"attn.to_add_out", "txt_attn.proj"},
      {"ff.net.0.proj", "img_mlp.0"},
      {"ff.net.2", "img_mlp.2"},
      {"ff_context.net.0.proj", "txt_mlp.0"},
      {"ff_context.net.2", "txt_mlp.2"},
      {"norm1.linear", "img_mod.lin"},
      {"norm1_context.linear", "txt_mod.lin"}}},
    {"transformer_blocks",
     "joint_blocks",
     {{"attn.to_q", "x_block.attn.qkv"},
      {"attn.to_k", "x_block.attn.qkv"},
      {"attn.to_v", "x_block.attn.qkv"},
      {"attn.to_out.0", "x_block.attn.proj"},
      {"attn2.to_q", "x_block.attn2.qkv"},
      {"attn2.to_k", "x_block.attn2.qkv"},
      {"attn2.to_v", "x_block.attn2.qkv"},
      {"attn2.to_out.0", "x_block.attn2.proj"},
      {"attn.add_q_proj", "context_block.attn.qkv"},
      {"attn.add_k_proj", "context_block.attn.qkv"},
      {"attn.add_v_proj", "context_block.attn.qkv"},
      {"attn.to_add_out", "context_block.attn.proj"},
      {"ff.net.0.proj", "x_block.mlp.fc1"},
      {"ff.net.2", "x_block.mlp.fc2"},
      {"ff_context.net.0.proj", "context_block.mlp.fc1"},
      {"ff_context.net.2", "context_block.mlp.fc2"},
      {"norm1.linear", "x_block.adaLN_modulation.1"},
      {"norm1_context.linear", "context_block.adaLN_modulation.1"}}},
    {"single_transformer_blocks",
     "single_blocks",
     {{"attn.to_q", "linear1"},
      {"attn.to_k", "linear1"},
      {"attn.to_v", "linear1"},
      {"proj_mlp", "linear1"},
      {"proj_out", "linear2"},
      {"norm.linear", "modulation.lin"}}},
    {"blocks",
     "blocks",
     {{"attn1.to_q", "self_attn.q"},
      {"attn1.to_k", "self_attn.k"},
      {"attn1.to_v", "self_attn.v"},
      {"attn1.to_out.0", "self_attn.o"},
      {"attn2.to_q", "cross_attn.q"},
      {"attn2.to_k", "cross_attn.k"},
      {"attn2.to_v", "cross_attn.v"},
      {"attn2.to_out.0", "cross_attn.o"},
      {"ffn.net.0.proj", "ffn.0"},
      {"ffn.net.2", "ffn.2"}}}};
// The same outside of blocks.
const Pairs top_layers = {{"x_embedder", "img_in"},
                          {"context_embedder", "txt_in"},
                          {"proj_out", "final_layer.linear"},
                          {"time_text_embed.text_embedder.linear_1", "vector_in.in_layer"},
                          {"time_text_embed.text_embedder.linear_2", "vector_in.out_layer"},
                          {"time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer"},
                          {"time_text_embed.guidance_embedder.linear_2", "guidance_in.out_layer"},
                          {"pos_embed.proj", "x_embedder.proj"},
                          {"time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0"},
                          {"time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"},
                          {"condition_embedder.text_embedder.linear_1", "text_embedding.0"},
                          {"condition_embedder.text_embedder.linear_2", "text_embedding.2"},
                          {"proj_out", "head.head"}};
// Where a block's text has no feed-forward, it is the last one, and the first repository has its modulation's halves the
// other way round.
const std::string last_context = "norm1_context.linear", feed_forward = "ff_context.net.2";
// Parts of names of layers that only the timestep decides.
const std::vector<std::string> of_timesteps = {"time_embed",        "time_emb_proj", "emb_layers", "adaln_single",
                                               "timestep_embedder", "time_in_",      "t_embedder", "t_block",
                                               "time_proj"};
const std::map<std::string, std::string> of_resnets = {{"conv1", "in_layers.2"},
                                                       {"time_emb_proj", "emb_layers.1"},
                                                       {"conv2", "out_layers.3"},
                                                       {"conv_shortcut", "skip_connection"}};
const std::map<std::string, std::string> of_unets = {{"conv_in", "input_blocks.0.0"}, {"conv_out", "out.2"}};

bool starts_with(const std::string& text, const std::string& beginning) {
    return text.compare(0, beginning.size(), beginning) == 0;
}

bool ends_with(const std::string& text, const std::string& ending) {
    return text.size() >= ending.size() && text.compare(text.size() - ending.size(), ending.size(), ending) == 0;
}

std::string plain(std::string name) {
    std::replace(name.begin(), name.end(), '.', '_');
    return name;
}

std::string in_part(const std::string& part, const std::string& path) {
    const std::string name = plain(path);
    return !part.empty() && starts_with(name, clip) ? name.substr(clip.size()) : name;
}

bool is_number(const std::string& text) {
    return !text.empty() && text.size() < 6 &&
           std::all_of(text.begin(), text.end(), [](unsigned char c) { return c >= '0' && c <= '9'; });
}

// The first `count` words between dots, and what is left as the last one; "" where there are fewer.
std::vector<std::string> split(const std::string& path, size_t count) {
    std::vector<std::string> words;
    size_t begin = 0;
    while (words.size() < count) {
        const size_t dot = path.find('.', begin);
        words.push_back(begin > path.size() ? "" : path.substr(begin, dot == std::string::npos ? dot : dot - begin));
        begin = dot == std::string::npos ? path.size() + 1 : dot + 1;
    }
    words.push_back(begin > path.size() ? "" : path.substr(begin));
    return words;
}

std::string renamed(const std::map<std::string, std::string>& names, const std::string& name) {
    const auto found = names.find(name);
    return found == names.end() ? name : found->second;
}

// A layer of Stable Diffusion's UNet by its name in CompVis's and Stability's repositories, two layers a block; "": it
// has none. upsampled: the up blocks with attentions, whose upsampler is one place further.
std::string first_unet_name(const std::string& path, const std::set<std::string>& upsampled) {
    const auto top = of_unets.find(path);
    if (top != of_unets.end()) return top->second;
    if (starts_with(path, "mid_block.")) {
        const auto words = split(path, 3);
        const std::string place = words[1] + "." + words[2];
        const int number = place == "resnets.0" ? 0 : place == "attentions.0" ? 1 : place == "resnets.1" ? 2 : -1;
        return number < 0 ? "" : say("middle_block.", number, ".", renamed(of_resnets, words[3]));
    }
    const bool down = starts_with(path, "down_blocks.");
    if (!down && !starts_with(path, "up_blocks.")) return "";
    const auto words = split(path, 4);
    const std::string &block = words[1], &group = words[2], &layer = words[3], &inner = words[4];
    if (!is_number(block) || !is_number(layer)) return "";
    const int first = 3 * std::stoi(block) + down, number = first + std::stoi(layer);
    const std::string side = down ? "input_blocks." : "output_blocks.";
    if (group == "resnets") return say(side, number, ".0.", renamed(of_resnets, inner));
    if (group == "attentions") return say(side, number, ".1.", inner);
    if (group == "downsamplers") return say(side, first + 2, ".0.op");
    if (group == "upsamplers") return say(side, first + 2, ".", 1 + int(upsampled.count(block)), ".", inner);
    return "";
}

// Names of the first repository, and the layers of diffusers that share a matrix there.
std::map<std::string, std::vector<std::string>> first_block_names(const std::vector<std::string>& paths) {
    const std::set<std::string> here(paths.begin(), paths.end());
    std::map<std::string, std::vector<std::string>> found;
    for (const Renamed& kind : blocks) {
        std::set<std::string> numbers;
        for (const auto& path : paths)
            if (starts_with(path, kind.own + ".")) numbers.insert(split(path, 2)[1]);
        for (const auto& number : numbers)
            for (const auto& [inner, other] : kind.layers) {
                const std::string path = say(kind.own, ".", number, ".", inner);
                if (inner == last_context && !here.count(say(kind.own, ".", number, ".", feed_forward))) continue;
                if (here.count(path)) found[say(kind.first, ".", number, ".", other)].push_back(path);
            }
    }
    return found;
}

}  // namespace

LoraKey lora_key(const std::string& given) {
    std::string name = given;
    for (bool again = true; again;) {
        again = false;
        for (const auto& wrapper : wrappers)
            if (starts_with(name, wrapper)) {
                name.erase(0, wrapper.size());
                again = true;
            }
    }
    std::string part;
    for (const auto& [prefix, own] : prefixes)
        if (starts_with(name, prefix)) {
            name.erase(0, prefix.size());
            part = own;
            break;
        }
    const std::string processor = ".processor.";
    for (size_t at; (at = name.find(processor)) != std::string::npos;) name.replace(at, processor.size(), ".");
    return {part, in_part(part, name)};
}

std::map<LoraKey, std::vector<std::string>> lora_keys(const std::string& part, const std::vector<std::string>& layers) {
    std::map<LoraKey, std::vector<std::string>> known;
    for (const auto& path : layers) known[{part, in_part(part, path)}] = {path};
    if (!part.empty()) return known;
    const auto add = [&](const std::string& alias, const std::vector<std::string>& paths) {
        known.emplace(LoraKey{part, plain(alias)}, paths);
    };
    std::set<std::string> upsampled;
    for (const auto& path : layers) {
        if (ends_with(path, ".to_out.0")) add(path.substr(0, path.size() - 2), {path});  // diffusers' first LoRAs
        if (starts_with(path, "up_blocks.") && path.find(".attentions.") != std::string::npos)
            upsampled.insert(split(path, 2)[1]);
    }
    for (const auto& path : layers) {
        const std::string alias = first_unet_name(path, upsampled);
        if (!alias.empty()) add(alias, {path});
    }
    for (const auto& [path, alias] : top_layers)
        if (std::find(layers.begin(), layers.end(), path) != layers.end()) add(alias, {path});
    for (const auto& [alias, paths] : first_block_names(layers)) add(alias, paths);
    return known;
}

bool only_timestep_decides(const LoraKey& key) {
    const std::string name = key.second + "_";
    return key.first.empty() && std::any_of(of_timesteps.begin(), of_timesteps.end(), [&](const std::string& word) {
               return name.find(word) != std::string::npos;
           });
}

}  // namespace soda
