// Recipes and overrides as people write them: each mistake is one line that names file, line and key, before
// any work.
#include "launch/train/recipe.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <toml.hpp>

#include "tests/unit/golden.h"
#include "tests/unit/scratch_dir.h"

namespace wuneng::recipe_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class RecipeTest : public ScratchTest {
 protected:
  void SetUp() override {
    ScratchTest::SetUp();
    write("text.txt", "So it goes.");
  }

  // A recipe that is right, with a line more in each of two tables.
  std::string recipe(const std::string& student = "", const std::string& rest = "") const {
    return "[student]\nmixer = \"attention\"\nhidden_size = 16\nintermediate_size = 32\nlayers = 2\nheads = "
           "4\n"
           "vocab_size = 256\n" +
           student + "\n[loss]\nobjective = \"ce\"\n[data]\npaths = [\"" + path("text.txt") +
           "\"]\n[run]\nout = \"" + path("out") + "\"\n" + rest + "\n";
  }
  // What is wrong with it, "" where nothing is: one line that names the recipe or the override.
  std::string refusal(const std::string& content, const std::vector<std::string>& overrides = {}) const {
    write("r.toml", content);
    return refusal_of_file(overrides);
  }
  std::string refusal_of_file(const std::vector<std::string>& overrides = {}) const {
    try {
      TrainRecipe::load(path("r.toml"), overrides);
    } catch (const Error& e) {
      const std::string what = e.what();
      EXPECT_EQ(what.find('\n'), std::string::npos) << what;
      EXPECT_THAT(what,
                  testing::AnyOf(HasSubstr("r.toml"), HasSubstr("command line"), testing::StartsWith("\"")))
          << what;
      return what;
    }
    return "";
  }
  // With a setting of the command line.
  std::string with(const std::string& override) const { return refusal(recipe(), {override}); }
};

TEST_F(RecipeTest, RecomputationWasABooleanOnce) {
  write("r.toml", recipe());
  const auto of = [&](const std::string& value) {
    return TrainRecipe::load(path("r.toml"), {"run.recompute=" + value});
  };
  EXPECT_EQ(of("true").recompute, Recompute::layer);
  EXPECT_EQ(of("false").recompute, Recompute::none);
  EXPECT_EQ(of("mixer+mlp").recompute, Recompute::parts);
  EXPECT_THAT(of("true").resolved, HasSubstr("run.recompute = \"layer\""));
  EXPECT_THAT(with("run.recompute=attention"),
              AllOf(HasSubstr("run.recompute"), HasSubstr("one of none, mixer, mlp, mixer+mlp, layer")));
  EXPECT_THAT(with("run.recompute=1"), HasSubstr("run.recompute"));
}

TEST_F(RecipeTest, IsAFileOfToml) {
  EXPECT_EQ(refusal(recipe()), "");
  EXPECT_EQ(refusal("\xef\xbb\xbf" + recipe()), "");
  EXPECT_THAT(refusal(""), HasSubstr("expected a recipe in TOML, found an empty file"));
  EXPECT_THAT(refusal("# nothing\n"), HasSubstr("student.hidden_size is missing"));
  EXPECT_THAT(refusal(std::string(2 << 20, '#')), HasSubstr("of at most 1048576 bytes"));
  EXPECT_THAT(refusal("a = " + std::string(100000, '[')), HasSubstr("nested at most"));
  EXPECT_THAT(refusal(recipe("x")), HasSubstr("r.toml:8: not TOML: missing key-value separator"));
  EXPECT_THAT(refusal(recipe("layers = 3")),
              HasSubstr("r.toml:8: not TOML: value (\"layers\") already exists"));
  for (const std::string& bytes : {std::string("\x7f"
                                               "ELF\0\0\1",
                                               7),
                                   std::string("\xff\xfe[\0s\0", 6), std::string("a = \"\xff\"\n")})
    EXPECT_THAT(refusal(bytes), HasSubstr("r.toml:1: not TOML: "));
  std::filesystem::remove(path("r.toml"));
  EXPECT_THAT(refusal_of_file(), HasSubstr("found nothing there"));
  std::filesystem::create_directory(path("r.toml"));
  EXPECT_THAT(refusal_of_file(), HasSubstr("found a directory"));
  std::filesystem::remove(path("r.toml"));
  ASSERT_EQ(::mkfifo(path("r.toml").c_str(), 0600), 0);
  EXPECT_THAT(refusal_of_file(), HasSubstr("found a pipe"));
}

TEST_F(RecipeTest, MisspeltKeysAreNamedWithTheNearest) {
  std::string content = recipe();
  content.replace(content.find("hidden_size"), 11, "hiden_size");
  EXPECT_THAT(refusal(content), HasSubstr("student.hidden_size is missing; is student.hiden_size meant ("));
  content = recipe();
  content.replace(content.find("[student]"), 9, "[studnet]");
  EXPECT_THAT(refusal(content), HasSubstr("student.hidden_size is missing; is studnet.hidden_size meant ("));
  EXPECT_THAT(with("optimizer.stepz=3"),
              HasSubstr("unknown key optimizer.stepz; did you mean optimizer.steps?"));
  EXPECT_THAT(refusal(recipe("chunk = 3\nkvheads = 2")),
              testing::AllOf(HasSubstr("r.toml:8: unknown key student.chunk; "),
                             HasSubstr("did you mean student.kv_heads?")));
}

TEST_F(RecipeTest, ValuesHaveTypesAndRanges) {
  EXPECT_THAT(refusal(recipe("kv_heads = 12345678901234567890")),
              HasSubstr("r.toml:8: student.kv_heads = (a number beyond 64 bits): expected 1 to"));
  const std::pair<const char*, const char*> cases[] = {
      {"student.layers=1e18", "expected a whole number"},
      {"student.layers=99999999999999999999", "beyond 64 bits"},
      {"student.layers=-99999999999999999999", "beyond 64 bits"},
      {"run.seed=99999999999999999999", "beyond 64 bits"},
      {"student.layers=2.9", "student.layers = 2.9: expected a whole number"},
      {"student.layers=-1", "expected 1 to 16384"},
      {"student.layers=\"2\"", "student.layers = \"2\": expected a whole number"},
      {"student.layers=true", "expected a whole number"},
      {"student.hidden_size=1000000000", "expected 1 to 1048576"},
      {"student.hidden_size=18", "is not a multiple of student.heads = 4"},
      {"student.heads=0", "expected 1 to"},
      {"student.heads={a=1}", "student.heads: expected one value, found a table with student.heads.a"},
      {"loss.temperature=-1", "loss.temperature = -1: expected 0.001 to 1000"},
      {"loss.temperature=nan", "expected 0.001 to 1000"},
      {"optimizer.lr=inf", "optimizer.lr = inf: expected 0 to 10"},
      {"optimizer.lr=1e400", "expected 0 to 10"},
      {"optimizer.lr=", "optimizer.lr = \"\": expected a number"},
      {"optimizer.steps=-5", "expected 1 to"},
      {"optimizer.zero=2", "optimizer.zero = 2: expected 0 to 1"},
      {"run.trace_steps=[3]", "run.trace_steps = [3]: expected none or the first and the last step"},
      {"run.trace_steps=[5,4]", "run.trace_steps = [5, 4]: expected none or the first and the last step"},
      {"optimizer.warmup=200", "optimizer.warmup = 200 is more than optimizer.steps = 100"},
      {"optimizer.min_lr=1", "optimizer.min_lr = 1 is more than optimizer.lr"},
      {"data.seq_len=0", "expected 1 to"},
      {"data.paths=text.txt", "expected a list of texts"},
      {"data.paths=[1]", "expected a list of texts"},
      {"run.overlap=1", "expected true or false"},
      {"run.device=tpu", "expected one of auto, cpu"},
      {"run.out=2024-01-01", "run.out = 2024-01-01: expected a text in quotes"},
      {"run.out=", "run.out: expected a path, found an empty text"},
      {"run.out=\"a\\u0000b\"", "without \\u0000"},
      {"student.freeze=[\"a\\nb\", 3]", "student.freeze = [\"a\\u000Ab\", 3]: expected a list"}};
  for (const auto& [override, expected] : cases) EXPECT_THAT(with(override), HasSubstr(expected)) << override;
}

TEST_F(RecipeTest, OverridesAreKeysWithOneValue) {
  for (const char* bad : {"optimizer.lr", "=3", "run.out=\"abc", "run.out='a", "data.paths=[\"a\"",
                          "run.out={a", "run.seed=1\nrun.keep=2"})
    EXPECT_THAT(with(bad), HasSubstr(bad == std::string("optimizer.lr") || *bad == '=' ? "expected key=value"
                                                                                       : "expected "))
        << bad;
  EXPECT_THAT(refusal(recipe(), {"run.seed=1", "run.keep=2", "run.seed=3"}),
              HasSubstr("\"run.seed=3\": run.seed is set on the command line already"));
  EXPECT_THAT(refusal(recipe(), {"teacher.layout.tp=1", "teacher.layout={tp=2}"}),
              HasSubstr("is set on the command line already"));
  EXPECT_THAT(with("run.out=a\xff"), HasSubstr("command line:1: not TOML"));
  write("r.toml", recipe());
  EXPECT_EQ(TrainRecipe::load(path("r.toml"), {"run.out=" + path("a\"b c#d")}).out, path("a\"b c#d"));
  EXPECT_EQ(TrainRecipe::load(path("r.toml"), {"layout={dp = 3, tp = 2}"}).layout.size(), 6);
}

TEST_F(RecipeTest, SettingsFitEachOther) {
  EXPECT_THAT(with("layout.pp=3"),
              HasSubstr("layout.pp = 3: expected at most 2, the number of the model's layers"));
  EXPECT_THAT(with("layout={dp=1048576, tp=1048576}"), HasSubstr("expected at most 1048576 ranks"));
  EXPECT_THAT(refusal(recipe(), {"data.seq_len=16777216", "data.micro_batch=1048576"}),
              HasSubstr("data.micro_batch = 1048576: expected at most"));
  EXPECT_THAT(refusal(recipe(), {"optimizer.steps=10000000", "run.eval_every=1", "run.eval_batches=1000"}),
              HasSubstr("evaluated micro-batches"));
  EXPECT_THAT(refusal(recipe(),
                      {"student.hidden_size=1048576", "student.head_dim=4", "student.vocab_size=100000000"}),
              HasSubstr("parameters need at least"));
  EXPECT_THAT(with("run.out=" + path("text.txt")), HasSubstr("expected a directory, found"));
  EXPECT_THAT(with("run.out=" + path("text.txt/below")), HasSubstr("expected a directory, found"));
  EXPECT_THAT(with("run.resume=elsewhere"), HasSubstr("run.resume = \"elsewhere\": expected"));
}

TEST_F(RecipeTest, MessagesAreThoseOfPipelines) {
  write("r.toml", recipe());
  const auto sends = [&](const std::vector<std::string>& overrides) {
    return TrainRecipe::load(path("r.toml"), overrides).sends_messages();
  };
  EXPECT_FALSE(sends({}));
  EXPECT_FALSE(sends({"layout.tp=2", "layout.dp=2"}));
  EXPECT_TRUE(sends({"layout.pp=2"}));
}

// A student's context: at most what its config.json says, unless the recipe extends it.
TEST_F(RecipeTest, ContextIsExtendedByTheRecipe) {
  const std::string shape = recipe().substr(recipe().find("[loss]"));
  write("r.toml", "[student]\ninit_from = \"" + golden("qwen2_tied") + "\"\n" + shape);
  const auto load = [&](const std::vector<std::string>& overrides) {
    return TrainRecipe::load(path("r.toml"), overrides);
  };
  EXPECT_EQ(load({"data.seq_len=64"}).student.carried.at("max_position_embeddings"), "64");
  EXPECT_THAT(refusal_of_file({"data.seq_len=65"}),
              HasSubstr("data.seq_len = 65: expected at most 64, the student's max_position_embeddings"));
  EXPECT_THAT(refusal_of_file({"data.seq_len=65", "student.yarn_factor=0.5"}), HasSubstr("expected 1 to"));

  const TrainRecipe scaled = load({"data.seq_len=256", "student.yarn_factor=4"});
  const auto* yarn = std::get_if<YarnScaling>(&scaled.student.rope_scaling);
  ASSERT_TRUE(yarn != nullptr);
  EXPECT_EQ(yarn->original_length, 64);
  EXPECT_EQ(scaled.student.carried.at("max_position_embeddings"), "256");
  EXPECT_THAT(scaled.notes, testing::Contains(HasSubstr("from 64 to 256 positions")));
  // As transformers scales the same config.json (tests/unit/config_json_test.cpp has its numbers).
  auto json = ModelConfig::from_directory(golden("qwen2_tied")).to_json();
  json["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4.0}};
  const ModelConfig same = ModelConfig::from_json(json, "x");
  EXPECT_EQ(rope_frequencies(scaled.student.rope_theta, scaled.student.rope_scaling, 64),
            rope_frequencies(same.rope_theta, same.rope_scaling, 64));
  EXPECT_EQ(yarn->attention_factor, rope_attention_factor(same.rope_scaling));
  EXPECT_THAT(refusal_of_file({"data.seq_len=257", "student.yarn_factor=4"}),
              HasSubstr("expected at most 256"));

  const TrainRecipe turned =
      load({"data.seq_len=100", "student.rope_theta=5e6", "student.max_position_embeddings=100"});
  EXPECT_EQ(turned.student.rope_theta, 5e6f);
  EXPECT_EQ(turned.student.carried.at("max_position_embeddings"), "100");

  write("r.toml", "[student]\ninit_from = \"" + golden("qwen2_tied") + "\"\n[teacher]\npath = \"" +
                      golden("qwen2_tied") + "\"\n[loss]\nobjective = \"kl\"\n" +
                      shape.substr(shape.find("[data]")));
  EXPECT_THAT(refusal_of_file({"data.seq_len=65", "student.yarn_factor=2"}),
              HasSubstr("expected at most 64, max_position_embeddings in config.json of teacher.path"));
}

// What a run writes is read as it was meant, whatever is in its strings.
TEST_F(RecipeTest, ResolvedIsToml) {
  const std::string texts[] = {"plain",
                               "a\"b",
                               "back\\slash\\",
                               "line\nfeed",
                               "tab\tcr\r",
                               "\x01\x1f\x7f",
                               "\xc3\xa9\xf0\x9f\x98\x80",
                               "'single'",
                               "\"\"\"",
                               "#no comment",
                               "${HOME}",
                               " "};
  for (const std::string& text : texts) {
    SCOPED_TRACE(text);
    std::istringstream in("x = " + toml_string(text));
    EXPECT_EQ(toml::parse(in).at("x").as_string().str, text);
    write("r.toml", recipe("freeze = [" + toml_string(text) + ", \"b\"]"));
    const TrainRecipe first = TrainRecipe::load(path("r.toml"), {"run.out=" + toml_string(path(text))});
    EXPECT_EQ(first.out, path(text));
    write("r.toml", first.resolved);
    const TrainRecipe second = TrainRecipe::load(path("r.toml"), {});
    EXPECT_EQ(second.out, first.out);
    EXPECT_EQ(second.freeze, first.freeze);
    EXPECT_EQ(second.resolved, first.resolved);
  }
}

}  // namespace
}  // namespace wuneng::recipe_test
