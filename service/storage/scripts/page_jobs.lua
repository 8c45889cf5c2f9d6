-- List jobs, newest first.
-- KEYS[1]   sorted set  the jobs, all or of one status, by time of creation
-- ARGV[1]   how many at most
-- ARGV[2]   the time before which to look, or '+inf'
-- ARGV[3]   how many to look at
-- ARGV[4]   what a job's key begins with
-- ARGV[5]   a model's id or '', ARGV[6] a data set's or '': only jobs with these
-- ARGV[7]   what the ids of the wanted jobs begin with, or ''
-- Returns   {the time to go on from, or '' at the end; id, id, …}
-- Invariant: a job's time never changes, so a page is not shifted by jobs that come or change their status meanwhile.
local newest = ARGV[2] == '+inf' and ARGV[2] or '(' .. ARGV[2]
local rows = redis.call('ZREVRANGEBYSCORE', KEYS[1], newest, '-inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3])
local answer = {''}
for index = 1, #rows, 2 do
  local wanted = string.sub(rows[index], 1, #ARGV[7]) == ARGV[7]
  if wanted and (ARGV[5] ~= '' or ARGV[6] ~= '') then
    local of = redis.call('HMGET', ARGV[4] .. rows[index], 'model', 'dataset')
    wanted = (ARGV[5] == '' or of[1] == ARGV[5]) and (ARGV[6] == '' or of[2] == ARGV[6])
  end
  if wanted then
    table.insert(answer, rows[index])
  end
  if #answer > tonumber(ARGV[1]) or (index + 2 > #rows and #rows == 2 * tonumber(ARGV[3])) then
    answer[1] = rows[index + 1]
    break
  end
end
return answer
