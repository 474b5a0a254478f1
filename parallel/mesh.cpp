#include "parallel/mesh.h"

namespace wuneng {
namespace {

std::string equation(const char* role, const Layout& l) {
  return fmt::format("{} dp {} x pp {} x tp {} = {}", role, l.dp, l.pp, l.tp, l.size());
}

}  // namespace

const Layout& Mesh::layout_of(Role of) const {
  if (of == Role::student) return student;
  require(teacher.has_value(), "mesh: asked for the teacher's layout, but this run has no teacher ranks");
  return *teacher;
}

int Mesh::world_rank(Role of, int dp, int pp, int tp) const {
  const Layout& l = layout_of(of);
  if (dp < 0 || dp >= l.dp || pp < 0 || pp >= l.pp || tp < 0 || tp >= l.tp)
    fail("mesh: no rank dp{} pp{} tp{} in {}", dp, pp, tp,
         equation(of == Role::student ? "student" : "teacher", l));
  return (of == Role::student ? 0 : student.size()) + (dp * l.pp + pp) * l.tp + tp;
}

void Mesh::check(int ranks, const Layout& student, const std::optional<Layout>& teacher) {
  const auto positive = [](const char* role, const Layout& l) {
    require(l.dp > 0 && l.pp > 0 && l.tp > 0, "layout: {}: expected positive degrees", equation(role, l));
  };
  positive("student", student);
  if (teacher) positive("teacher", *teacher);
  const int wanted = student.size() + (teacher ? teacher->size() : 0);
  require(wanted == ranks, "the recipe asks for {} ranks: {}{}, but {} {} started; use mpirun -n {}", wanted,
          equation("student", student), teacher ? " + " + equation("teacher", *teacher) : "", ranks,
          ranks == 1 ? "was" : "were", wanted);
}

Mesh Mesh::make(const Comm& world, const Layout& student, const std::optional<Layout>& teacher) {
  check(world.size(), student, teacher);
  Mesh m;
  m.world = world;
  m.student = student;
  m.teacher = teacher;
  const bool teaches = world.rank() >= student.size();
  m.role = teaches ? Role::teacher : Role::student;
  m.layout = teaches ? *teacher : student;
  const std::string role = teaches ? "teacher" : "student";
  const int index = world.rank() - (teaches ? student.size() : 0);
  m.tp_rank = index % m.layout.tp;
  m.pp_rank = index / m.layout.tp % m.layout.pp;
  m.dp_rank = index / (m.layout.tp * m.layout.pp);
  if (world.size() > 1)
    set_rank_name(
        fmt::format("rank {} ({} dp{} pp{} tp{})", world.rank(), role, m.dp_rank, m.pp_rank, m.tp_rank));
  m.role_comm = world.split(teaches, index, role);
  m.tp = m.role_comm.split(m.dp_rank * m.layout.pp + m.pp_rank, m.tp_rank, role + ".tp");
  m.pp = m.role_comm.split(m.dp_rank * m.layout.tp + m.tp_rank, m.pp_rank, role + ".pp");
  m.pp_gradients = m.role_comm.split(m.dp_rank * m.layout.tp + m.tp_rank, m.pp_rank, role + ".pp_gradients");
  m.dp = m.role_comm.split(m.pp_rank * m.layout.tp + m.tp_rank, m.dp_rank, role + ".dp");
  const bool ends = m.layout.pp > 1 && (m.first_stage() || m.last_stage());
  m.embedding =
      m.role_comm.split(ends ? m.dp_rank * m.layout.tp + m.tp_rank : -1, m.pp_rank, role + ".embedding");
  return m;
}

void Mesh::connect(Device device, bool overlap, const VirtualStages& student_chunks) const {
  for (const Comm* group : {&tp, &pp, &dp, &embedding}) group->connect(device, overlap);
  const bool trains = role == Role::student;
  std::vector<Comm::Channel> forward, backward;
  for (const auto& [from, to] : (trains ? student_chunks : VirtualStages{layout.pp}).neighbours()) {
    forward.push_back({from, to});
    if (trains) backward.push_back({to, from});
  }
  pp.connect_messages(device, forward);
  pp_gradients.connect_messages(device, backward);
}

}  // namespace wuneng
